//! `GET /version`: which version answers?

use super::Operation;
use crate::action::Action;
use crate::http::Method;

pub(super) const GET: Operation = Operation {
    method: Method::Get,
    path: "/version",
    parse: |_| Ok(Action::GetVersion.into()),
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints::tests::action;

    #[test]
    fn it_asks_for_that() {
        assert_eq!(action(Method::Get, "/version", ""), Action::GetVersion);
    }
}
