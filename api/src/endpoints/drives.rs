//! `PUT` and `PATCH /drives/{drive_id}`: the drives.

use super::{Call, Operation, Parsed, body, check_path_id};
use crate::action::Action;
use crate::config::{Drive, DriveUpdate, check_path};
use crate::error::{ActionError, Fault};
use crate::http::Method;

const PATH: &str = "/drives/{drive_id}";
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
    let drive: Drive = body(call.body)?;
    check_same(call.id, &drive.drive_id)?;
    drive.validate().map_err(|err| ActionError::Drive(err.into()))?;
    Ok(Action::PutDrive(drive).into())
}

fn patch(call: &Call<'_>) -> Result<Parsed, Fault> {
    check_path_id(call.id)?;
    let update: DriveUpdate = body(call.body)?;
    check_same(call.id, &update.drive_id)?;
    if let Some(path) = &update.path_on_host {
        check_path("path_on_host", path).map_err(|err| ActionError::Drive(err.into()))?;
    }
    Ok(Action::PatchDrive(update).into())
}

fn check_same(path_id: &str, body_id: &str) -> Result<(), Fault> {
    if path_id == body_id {
        return Ok(());
    }
    Err(Fault::new(
        "The id from the path does not match the id from the body!",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints::tests::{action, fault};

    const BODY: &str = r#"{"drive_id":"a","is_root_device":true,"path_on_host":"d"}"#;

    #[test]
    fn a_drive_is_put_and_patched() {
        assert!(
            matches!(action(Method::Put, "/drives/a", BODY), Action::PutDrive(drive) if drive.drive_id == "a")
        );
        let patch = action(Method::Patch, "/drives/a", r#"{"drive_id":"a"}"#);
        assert_eq!(
            patch,
            Action::PatchDrive(DriveUpdate {
                drive_id: "a".into(),
                ..DriveUpdate::default()
            })
        );
    }

    #[test]
    fn identifiers_are_checked() {
        for path in ["/drives", "/drives/"] {
            assert_eq!(fault(Method::Put, path, Some(BODY)), "The ID cannot be empty.");
        }
        for (id, expected) in [
            ("dummy!!", "'!' at position 5"),
            ("a/b", "'/' at position 1"),
            ("a-b", "'-'"),
        ] {
            let text = fault(Method::Patch, &format!("/drives/{id}"), Some(BODY));
            assert!(
                text.starts_with(
                    "API Resource IDs can only contain alphanumeric characters and underscores."
                )
            );
            assert!(text.contains(expected), "{text}");
        }
        assert!(fault(Method::Put, &format!("/drives/{}", "x".repeat(300)), Some(BODY)).contains("1 to 64"));
        let mismatch = "The id from the path does not match the id from the body!";
        assert_eq!(fault(Method::Put, "/drives/b", Some(BODY)), mismatch);
        assert_eq!(
            fault(Method::Patch, "/drives/b", Some(r#"{"drive_id":"a"}"#)),
            mismatch
        );
    }

    #[test]
    fn only_some_things_can_be_changed_later() {
        for field in ["is_read_only", "io_engine", "is_root_device"] {
            let body = format!(r#"{{"drive_id":"a","{field}":true}}"#);
            let text = fault(Method::Patch, "/drives/a", Some(&body));
            assert!(text.contains(&format!("unknown field `{field}`")), "{text}");
        }
        let text = fault(
            Method::Patch,
            "/drives/a",
            Some(r#"{"drive_id":"a","path_on_host":""}"#),
        );
        assert!(text.contains("`path_on_host` is empty"), "{text}");
    }

    #[test]
    fn contents_are_needed() {
        let text = fault(
            Method::Put,
            "/drives/a",
            Some(r#"{"drive_id":"a","is_root_device":false}"#),
        );
        assert!(
            text.starts_with("Drive config error: drive \"a\" needs either `path_on_host`"),
            "{text}"
        );
    }
}
