//! `PUT /actions`: do something now.

use serde::{Deserialize, Serialize};

use super::{Call, Operation, Parsed, body};
use crate::action::Action;
use crate::error::Fault;
use crate::http::Method;

pub(super) const PUT: Operation = Operation {
    method: Method::Put,
    path: "/actions",
    parse: put,
};

/// The body of `PUT /actions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InstanceAction {
    action_type: ActionType,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum ActionType {
    FlushMetrics,
    InstanceStart,
    SendCtrlAltDel,
}

fn put(call: &Call<'_>) -> Result<Parsed, Fault> {
    let InstanceAction { action_type } = body(call.body)?;
    Ok(Parsed::from(match action_type {
        ActionType::FlushMetrics => Action::FlushMetrics,
        ActionType::InstanceStart => Action::StartInstance,
        ActionType::SendCtrlAltDel => Action::SendCtrlAltDel,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints::tests::{action, fault};

    #[test]
    fn each_action_is_known() {
        for (name, expected) in [
            ("FlushMetrics", Action::FlushMetrics),
            ("InstanceStart", Action::StartInstance),
            ("SendCtrlAltDel", Action::SendCtrlAltDel),
        ] {
            assert_eq!(
                action(Method::Put, "/actions", &format!(r#"{{"action_type":"{name}"}}"#)),
                expected
            );
        }
    }

    #[test]
    fn others_are_refused() {
        let text = fault(Method::Put, "/actions", Some(r#"{"action_type":"Dance"}"#));
        assert!(
            text.contains("unknown variant `Dance`, expected one of `FlushMetrics`"),
            "{text}"
        );
        let text = fault(
            Method::Put,
            "/actions",
            Some(r#"{"action_type":"InstanceStart","payload":"x"}"#),
        );
        assert!(text.contains("unknown field `payload`"), "{text}");
    }
}
