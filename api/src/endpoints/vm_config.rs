//! `GET /vm/config`: the whole configuration.

use super::Operation;
use crate::action::Action;
use crate::http::Method;

pub(super) const GET: Operation = Operation {
    method: Method::Get,
    path: "/vm/config",
    parse: |_| Ok(Action::GetVmConfig.into()),
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints::tests::action;

    #[test]
    fn it_asks_for_that() {
        assert_eq!(action(Method::Get, "/vm/config", ""), Action::GetVmConfig);
    }
}
