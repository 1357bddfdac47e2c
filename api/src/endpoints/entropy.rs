//! `PUT /entropy`: the device that gives the guest random numbers.

use super::{Call, Operation, Parsed, body};
use crate::action::Action;
use crate::error::Fault;
use crate::http::Method;

pub(super) const PUT: Operation = Operation {
    method: Method::Put,
    path: "/entropy",
    parse: put,
};

fn put(call: &Call<'_>) -> Result<Parsed, Fault> {
    Ok(Action::PutEntropy(body(call.body)?).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Entropy;
    use crate::endpoints::tests::{action, fault};

    #[test]
    fn a_limit_is_optional() {
        assert_eq!(
            action(Method::Put, "/entropy", "{}"),
            Action::PutEntropy(Entropy::default())
        );
        let limited = action(
            Method::Put,
            "/entropy",
            r#"{"rate_limiter":{"ops":{"size":1,"refill_time":100}}}"#,
        );
        assert!(matches!(limited, Action::PutEntropy(entropy) if entropy.rate_limiter.unwrap().limits()));
        let text = fault(
            Method::Put,
            "/entropy",
            Some(r#"{"rate_limiter":{"ops":{"size":1}}}"#),
        );
        assert!(
            text.contains("missing field `refill_time`") && text.contains("`rate_limiter.ops`"),
            "{text}"
        );
    }
}
