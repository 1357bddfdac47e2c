//! `PUT /boot-source`: what to boot.

use super::{Call, Operation, Parsed, body};
use crate::action::Action;
use crate::config::BootSource;
use crate::error::{ActionError, Fault};
use crate::http::Method;

pub(super) const PUT: Operation = Operation {
    method: Method::Put,
    path: "/boot-source",
    parse: put,
};

fn put(call: &Call<'_>) -> Result<Parsed, Fault> {
    let boot: BootSource = body(call.body)?;
    boot.validate()
        .map_err(|err| ActionError::BootSource(err.into()))?;
    Ok(Action::PutBootSource(boot).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints::tests::{action, fault};

    #[test]
    fn a_kernel_is_enough() {
        let expected = BootSource {
            kernel_image_path: "k".into(),
            ..BootSource::default()
        };
        let body = r#"{"kernel_image_path":"k"}"#;
        assert_eq!(
            action(Method::Put, "/boot-source", body),
            Action::PutBootSource(expected)
        );
    }

    #[test]
    fn a_kernel_is_needed() {
        let text = fault(Method::Put, "/boot-source", Some(r#"{"boot_args":"x"}"#));
        assert!(text.contains("missing field `kernel_image_path`"), "{text}");
        let text = fault(Method::Put, "/boot-source", Some(r#"{"kernel_image_path":""}"#));
        assert_eq!(
            text,
            "Boot source error: `kernel_image_path` is empty: it must be the path of a file on the host"
        );
    }
}
