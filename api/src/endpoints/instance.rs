//! `GET /`: who answers, and does the microVM run?

use super::Operation;
use crate::action::Action;
use crate::http::Method;

pub(super) const GET: Operation = Operation {
    method: Method::Get,
    path: "/",
    parse: |_| Ok(Action::GetInstance.into()),
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints::tests::action;

    #[test]
    fn it_asks_for_that() {
        assert_eq!(action(Method::Get, "/", ""), Action::GetInstance);
    }
}
