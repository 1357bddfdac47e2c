//! `PATCH /vm`: pause and resume.

use super::{Call, Operation, Parsed, body};
use crate::action::Action;
use crate::error::Fault;
use crate::http::Method;

pub(super) const PATCH: Operation = Operation {
    method: Method::Patch,
    path: "/vm",
    parse: patch,
};

fn patch(call: &Call<'_>) -> Result<Parsed, Fault> {
    Ok(Action::PatchVm(body(call.body)?).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::{VmStateChange, WantedState};
    use crate::endpoints::tests::{action, fault};

    #[test]
    fn both_states_are_known() {
        for (name, state) in [("Paused", WantedState::Paused), ("Resumed", WantedState::Resumed)] {
            let patch = action(Method::Patch, "/vm", &format!(r#"{{"state":"{name}"}}"#));
            assert_eq!(patch, Action::PatchVm(VmStateChange { state }));
        }
        let text = fault(Method::Patch, "/vm", Some(r#"{"state":"Running"}"#));
        assert!(
            text.contains("unknown variant `Running`, expected `Paused` or `Resumed`"),
            "{text}"
        );
    }
}
