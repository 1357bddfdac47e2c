//! `PUT /vsock`: the socket device between guest and host.

use super::{Call, Operation, Parsed, body};
use crate::action::Action;
use crate::config::Vsock;
use crate::error::Fault;
use crate::http::Method;

pub(super) const PUT: Operation = Operation {
    method: Method::Put,
    path: "/vsock",
    parse: put,
};

fn put(call: &Call<'_>) -> Result<Parsed, Fault> {
    let vsock: Vsock = body(call.body)?;
    let deprecated = vsock.vsock_id.is_some();
    Ok(Parsed {
        action: Action::PutVsock(vsock),
        deprecated,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints::parse;
    use crate::endpoints::tests::fault;

    #[test]
    fn the_id_is_deprecated() {
        for (body, deprecated) in [
            (r#"{"guest_cid":42,"uds_path":"v.sock"}"#, false),
            (r#"{"vsock_id":"a","guest_cid":42,"uds_path":"v.sock"}"#, true),
        ] {
            let parsed = parse(Method::Put, "/vsock", Some(body.as_bytes())).unwrap();
            assert_eq!(parsed.deprecated, deprecated);
            assert!(matches!(parsed.action, Action::PutVsock(vsock) if vsock.guest_cid == 42));
        }
    }

    #[test]
    fn both_fields_are_needed() {
        let text = fault(Method::Put, "/vsock", Some(r#"{"guest_cid":42}"#));
        assert!(text.contains("missing field `uds_path`"), "{text}");
        let text = fault(Method::Put, "/vsock", Some(r#"{"uds_path":"v.sock"}"#));
        assert!(text.contains("missing field `guest_cid`"), "{text}");
    }
}
