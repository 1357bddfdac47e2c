//! `PUT /snapshot/create`, `PUT /snapshot/load` and `PUT /snapshot/working-set`.

use super::{Call, Operation, Parsed, body};
use crate::action::Action;
use crate::config::{SnapshotCreate, SnapshotLoad, WorkingSetNote};
use crate::error::{ActionError, Fault};
use crate::http::Method;

pub(super) const CREATE: Operation = Operation {
    method: Method::Put,
    path: "/snapshot/create",
    parse: create,
};

pub(super) const LOAD: Operation = Operation {
    method: Method::Put,
    path: "/snapshot/load",
    parse: load,
};

pub(super) const WORKING_SET: Operation = Operation {
    method: Method::Put,
    path: "/snapshot/working-set",
    parse: working_set,
};

fn create(call: &Call<'_>) -> Result<Parsed, Fault> {
    let wanted: SnapshotCreate = body(call.body)?;
    wanted
        .validate()
        .map_err(|error| ActionError::CreateSnapshot(error.into()))?;
    Ok(Action::CreateSnapshot(wanted).into())
}

fn load(call: &Call<'_>) -> Result<Parsed, Fault> {
    let wanted: SnapshotLoad = body(call.body)?;
    wanted
        .source()
        .map_err(|error| ActionError::LoadSnapshot(error.into()))?;
    Ok(Parsed {
        deprecated: wanted.is_deprecated(),
        action: Action::LoadSnapshot(Box::new(wanted)),
    })
}

fn working_set(call: &Call<'_>) -> Result<Parsed, Fault> {
    let wanted: WorkingSetNote = body(call.body)?;
    wanted
        .validate()
        .map_err(|error| ActionError::WorkingSet(error.into()))?;
    Ok(Action::NoteWorkingSet(wanted).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints::tests::{action, fault};

    #[test]
    fn snapshots_are_made_and_read() {
        let body = r#"{"snapshot_path":"s","mem_file_path":"m"}"#;
        let made = action(Method::Put, "/snapshot/create", body);
        assert!(matches!(made, Action::CreateSnapshot(wanted) if wanted.mem_file_path.as_os_str() == "m"));
        let noted = action(
            Method::Put,
            "/snapshot/working-set",
            r#"{"working_set_path":"w"}"#,
        );
        assert!(
            matches!(noted, Action::NoteWorkingSet(wanted) if wanted.working_set_path.as_os_str() == "w")
        );
        let read = action(Method::Put, "/snapshot/load", body);
        assert!(matches!(read, Action::LoadSnapshot(wanted) if !wanted.resume_vm));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let text = fault(Method::Put, "/snapshot/load", Some(r#"{"snapshot_path":"s"}"#));
        assert!(
            text.starts_with("Load snapshot error: missing field: either `mem_backend`"),
            "{text}"
        );
        let text = fault(Method::Put, "/snapshot/create", Some(r#"{"snapshot_path":"s"}"#));
        assert!(text.contains("missing field `mem_file_path`"), "{text}");
        let diff = r#"{"snapshot_path":"s","mem_file_path":"m","snapshot_type":"Diff"}"#;
        let text = fault(Method::Put, "/snapshot/create", Some(diff));
        assert!(
            text.starts_with("Create snapshot error: `snapshot_type` Diff"),
            "{text}"
        );
    }
}
