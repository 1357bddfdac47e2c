//! `PUT /metrics`: the VMM's metrics.

use super::{Call, Operation, Parsed, body};
use crate::action::Action;
use crate::config::Metrics;
use crate::error::{ActionError, Fault};
use crate::http::Method;

pub(super) const PUT: Operation = Operation {
    method: Method::Put,
    path: "/metrics",
    parse: put,
};

fn put(call: &Call<'_>) -> Result<Parsed, Fault> {
    let metrics: Metrics = body(call.body)?;
    metrics
        .validate()
        .map_err(|err| ActionError::Metrics(err.into()))?;
    Ok(Action::PutMetrics(metrics).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints::tests::{action, fault};

    #[test]
    fn a_path_is_taken() {
        let put = action(Method::Put, "/metrics", r#"{"metrics_path":"out"}"#);
        assert!(
            matches!(put, Action::PutMetrics(metrics) if metrics.metrics_path == std::path::Path::new("out"))
        );
    }

    #[test]
    fn an_empty_path_is_refused() {
        let text = fault(Method::Put, "/metrics", Some(r#"{"metrics_path":""}"#));
        assert!(
            text.starts_with("Metrics error: `metrics_path` is empty"),
            "{text}"
        );
    }
}
