//! `PUT /logger`: the VMM's log.

use super::{Call, Operation, Parsed, body};
use crate::action::Action;
use crate::config::Logger;
use crate::error::{ActionError, Fault};
use crate::http::Method;

pub(super) const PUT: Operation = Operation {
    method: Method::Put,
    path: "/logger",
    parse: put,
};

fn put(call: &Call<'_>) -> Result<Parsed, Fault> {
    let logger: Logger = body(call.body)?;
    logger.validate().map_err(|err| ActionError::Logger(err.into()))?;
    Ok(Action::PutLogger(logger).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints::tests::{action, fault};

    #[test]
    fn a_path_is_taken() {
        let put = action(Method::Put, "/logger", r#"{"log_path":"out"}"#);
        assert!(matches!(put, Action::PutLogger(logger) if logger.log_path == Some("out".into())));
    }

    #[test]
    fn an_empty_path_is_refused() {
        let text = fault(Method::Put, "/logger", Some(r#"{"log_path":""}"#));
        assert!(text.starts_with("Logger error: `log_path` is empty"), "{text}");
    }
}
