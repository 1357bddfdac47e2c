//! `PUT` and `PATCH /network-interfaces/{iface_id}`: the network interfaces.

use super::{Call, Operation, Parsed, body, check_path_id};
use crate::action::Action;
use crate::config::{NetworkInterface, NetworkInterfaceUpdate};
use crate::error::{ActionError, Fault};
use crate::http::Method;

const PATH: &str = "/network-interfaces/{iface_id}";
pub(super) const PUT: Operation = Operation {
    method: Method::Put,
    path: PATH,
    parse: put,
};
pub(super) const PATCH: Operation = Operation {
    method: Method::Patch,
    path: PATH,
    parse: patch,
};

fn put(call: &Call<'_>) -> Result<Parsed, Fault> {
    check_path_id(call.id)?;
    let interface: NetworkInterface = body(call.body)?;
    check_same(call.id, &interface.iface_id)?;
    interface
        .validate()
        .map_err(|err| ActionError::Network(err.into()))?;
    Ok(Action::PutNetworkInterface(interface).into())
}

fn patch(call: &Call<'_>) -> Result<Parsed, Fault> {
    check_path_id(call.id)?;
    let update: NetworkInterfaceUpdate = body(call.body)?;
    check_same(call.id, &update.iface_id)?;
    Ok(Action::PatchNetworkInterface(update).into())
}

fn check_same(path_id: &str, body_id: &str) -> Result<(), Fault> {
    if path_id == body_id {
        return Ok(());
    }
    let shown: String = body_id.chars().take(crate::config::MAX_ID_CHARS).collect();
    Err(Fault::new(format!(
        "The id from the path [{path_id}] does not match the id from the body [{shown}]!"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints::tests::{action, fault};

    const BODY: &str = r#"{"iface_id":"a","host_dev_name":"tap0","guest_mac":"06:00:00:00:00:01"}"#;

    #[test]
    fn an_interface_is_put_and_patched() {
        let put = action(Method::Put, "/network-interfaces/a", BODY);
        assert!(matches!(put, Action::PutNetworkInterface(net) if net.host_dev_name == "tap0"));
        let patch = action(Method::Patch, "/network-interfaces/a", r#"{"iface_id":"a"}"#);
        assert!(matches!(patch, Action::PatchNetworkInterface(net) if net.iface_id == "a"));
    }

    #[test]
    fn identifiers_and_contents_are_checked() {
        assert_eq!(
            fault(Method::Put, "/network-interfaces/b", Some(BODY)),
            "The id from the path [b] does not match the id from the body [a]!"
        );
        assert_eq!(
            fault(Method::Patch, "/network-interfaces", Some(BODY)),
            "The ID cannot be empty."
        );
        let text = fault(
            Method::Put,
            "/network-interfaces/a",
            Some(&BODY.replace("06:", "6:")),
        );
        assert!(
            text.contains("The provided MAC address is invalid") && text.contains("`guest_mac`"),
            "{text}"
        );
        let text = fault(
            Method::Put,
            "/network-interfaces/a",
            Some(&BODY.replace("tap0", "a/b")),
        );
        assert!(
            text.starts_with("Network config error: network interface \"a\""),
            "{text}"
        );
        let text = fault(Method::Patch, "/network-interfaces/a", Some(BODY));
        assert!(text.contains("unknown field `host_dev_name`"), "{text}");
    }
}
