//! `PUT /shared-folders/{folder_id}`: folders of the host that the guest mounts.

use super::{Call, Operation, Parsed, body, check_path_id};
use crate::action::Action;
use crate::config::{MAX_ID_CHARS, SharedFolder};
use crate::error::{ActionError, Fault};
use crate::http::Method;

pub(super) const PUT: Operation = Operation {
    method: Method::Put,
    path: "/shared-folders/{folder_id}",
    parse: put,
};

fn put(call: &Call<'_>) -> Result<Parsed, Fault> {
    check_path_id(call.id)?;
    let folder: SharedFolder = body(call.body)?;
    if call.id != folder.folder_id {
        let shown: String = folder.folder_id.chars().take(MAX_ID_CHARS).collect();
        return Err(Fault::new(format!(
            "The id from the path [{}] does not match the id from the body [{shown}]!",
            call.id
        )));
    }
    folder
        .validate()
        .map_err(|err| ActionError::SharedFolder(err.into()))?;
    Ok(Action::PutSharedFolder(folder).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints::tests::{action, fault};

    const PATH: &str = "/shared-folders/a";
    const BODY: &str = r#"{"folder_id":"a","tag":"src","socket":"fs.sock"}"#;

    #[test]
    fn a_folder_is_put() {
        let put = action(Method::Put, PATH, BODY);
        assert!(matches!(put, Action::PutSharedFolder(folder) if folder.tag == "src"));
    }

    #[test]
    fn identifiers_and_contents_are_checked() {
        assert_eq!(
            fault(Method::Put, "/shared-folders/b", Some(BODY)),
            "The id from the path [b] does not match the id from the body [a]!"
        );
        assert_eq!(
            fault(Method::Put, "/shared-folders", Some(BODY)),
            "The ID cannot be empty."
        );
        let text = fault(Method::Put, PATH, Some(&BODY.replace("src", "")));
        assert!(
            text.starts_with("Shared folder config error: shared folder \"a\""),
            "{text}"
        );
        let text = fault(Method::Put, PATH, Some(&BODY.replace("socket", "path")));
        assert!(text.contains("unknown field `path`"), "{text}");
    }
}
