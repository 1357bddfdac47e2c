//! `GET`, `PUT` and `PATCH /machine-config`: vCPUs and memory.

use super::{Call, Operation, Parsed, body};
use crate::action::Action;
use crate::config::{MachineConfig, MachineConfigUpdate};
use crate::error::{ActionError, Fault};
use crate::http::Method;

const PATH: &str = "/machine-config";
pub(super) const GET: Operation = Operation {
    method: Method::Get,
    path: PATH,
    parse: |_| Ok(Action::GetMachineConfig.into()),
};
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
    let machine: MachineConfig = body(call.body)?;
    machine.validate().map_err(ActionError::Machine)?;
    let deprecated = machine.cpu_template.is_some();
    Ok(Parsed {
        action: Action::PutMachineConfig(machine),
        deprecated,
    })
}

/// An update is checked by the handler, which knows what it is applied to.
fn patch(call: &Call<'_>) -> Result<Parsed, Fault> {
    let update: MachineConfigUpdate = body(call.body)?;
    if update == MachineConfigUpdate::default() {
        return Err(Fault::new("Empty PATCH request."));
    }
    let deprecated = update.cpu_template.is_some();
    Ok(Parsed {
        action: Action::PatchMachineConfig(update),
        deprecated,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints::tests::{action, fault};

    #[test]
    fn the_machine_is_read_and_replaced() {
        assert_eq!(action(Method::Get, PATH, ""), Action::GetMachineConfig);
        let put = action(Method::Put, PATH, r#"{"vcpu_count":2,"mem_size_mib":256}"#);
        let expected = MachineConfig {
            vcpu_count: 2,
            mem_size_mib: 256,
            ..MachineConfig::default()
        };
        assert_eq!(put, Action::PutMachineConfig(expected));
    }

    #[test]
    fn missing_fields_keep_the_text_clients_match() {
        let text = fault(Method::Put, PATH, Some(r#"{"mem_size_mib": 128}"#));
        assert!(
            text.ends_with("missing field `vcpu_count` at line 1 column 21."),
            "{text}"
        );
        let text = fault(Method::Put, PATH, Some(r#"{"vcpu_count": 2}"#));
        assert!(
            text.ends_with("missing field `mem_size_mib` at line 1 column 17."),
            "{text}"
        );
    }

    #[test]
    fn wrong_numbers_name_the_range() {
        for count in ["0", "33", "1000000"] {
            let text = fault(
                Method::Put,
                PATH,
                Some(&format!(r#"{{"vcpu_count":{count},"mem_size_mib":1}}"#)),
            );
            assert!(text.contains("vcpu_count") && text.contains("1 to 32"), "{text}");
        }
        let text = fault(Method::Put, PATH, Some(r#"{"vcpu_count":1,"mem_size_mib":0}"#));
        assert!(
            text.starts_with("Machine config error: The memory size (MiB) is either 0, or not a multiple"),
            "{text}"
        );
    }

    #[test]
    fn an_update_names_something() {
        let patch = action(Method::Patch, PATH, r#"{"track_dirty_pages":true}"#);
        let expected = MachineConfigUpdate {
            track_dirty_pages: Some(true),
            ..MachineConfigUpdate::default()
        };
        assert_eq!(patch, Action::PatchMachineConfig(expected));
        for nothing in ["{}", r#"{"smt":null}"#] {
            assert_eq!(fault(Method::Patch, PATH, Some(nothing)), "Empty PATCH request.");
        }
    }

    #[test]
    fn templates_are_deprecated() {
        for (method, body, deprecated) in [
            (
                Method::Put,
                r#"{"vcpu_count":1,"mem_size_mib":1,"cpu_template":"None"}"#,
                true,
            ),
            (Method::Put, r#"{"vcpu_count":1,"mem_size_mib":1}"#, false),
            (Method::Patch, r#"{"cpu_template":"T2"}"#, true),
            (Method::Patch, r#"{"vcpu_count":1}"#, false),
        ] {
            assert_eq!(
                crate::endpoints::parse(method, PATH, Some(body.as_bytes()))
                    .unwrap()
                    .deprecated,
                deprecated
            );
        }
    }
}
