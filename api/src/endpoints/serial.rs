//! `PUT /serial`: where the serial console's output goes.

use super::{Call, Operation, Parsed, body};
use crate::action::Action;
use crate::config::Serial;
use crate::error::{ActionError, Fault};
use crate::http::Method;

pub(super) const PUT: Operation = Operation {
    method: Method::Put,
    path: "/serial",
    parse: put,
};

fn put(call: &Call<'_>) -> Result<Parsed, Fault> {
    let serial: Serial = body(call.body)?;
    serial.validate().map_err(|err| ActionError::Serial(err.into()))?;
    Ok(Action::PutSerial(serial).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints::tests::{action, fault};

    #[test]
    fn a_path_is_taken() {
        let put = action(Method::Put, "/serial", r#"{"serial_out_path":"out"}"#);
        assert!(matches!(put, Action::PutSerial(serial) if serial.serial_out_path == Some("out".into())));
    }

    #[test]
    fn an_empty_path_is_refused() {
        let text = fault(Method::Put, "/serial", Some(r#"{"serial_out_path":""}"#));
        assert!(
            text.starts_with("Serial config error: `serial_out_path` is empty"),
            "{text}"
        );
    }
}
