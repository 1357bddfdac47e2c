//! The API's paths: one endpoint, one file. Each turns a body into an [`Action`]; this module finds the endpoint and
//! turns what came out into a response.
//!
//! The order of the checks and their texts are Firecracker's, because clients match on them.

mod actions;
mod boot_source;
mod drives;
mod entropy;
mod instance;
mod logger;
mod machine_config;
mod metrics;
mod network_interfaces;
mod serial;
mod shared_folders;
mod snapshot;
mod version;
mod vm;
mod vm_config;
mod vsock;

use serde::de::DeserializeOwned;

use crate::action::{Action, ActionHandler, Outcome};
use crate::config::check_id;
use crate::error::{ActionError, Fault};
use crate::http::{Method, Request, Response, Status};
use crate::json;

/// Longest path repeated in a fault, in characters.
const MAX_PATH_SHOWN: usize = 128;
/// What Firecracker has and Koya has not yet: whoever asks for it made no typing error.
const NOT_YET: [&str; 6] = [
    "balloon",
    "cpu-config",
    "hotplug",
    "memory-hotplug",
    "mmds",
    "pmem",
];

/// One method on one path.
#[derive(Clone, Copy)]
pub struct Operation {
    /// The method.
    pub method: Method,
    /// The path as the OpenAPI file writes it: with `{…}` where an identifier goes.
    pub path: &'static str,
    parse: fn(&Call<'_>) -> Result<Parsed, Fault>,
}

/// Everything the API can do.
pub const OPERATIONS: &[Operation] = &[
    instance::GET,
    version::GET,
    vm_config::GET,
    machine_config::GET,
    machine_config::PUT,
    machine_config::PATCH,
    boot_source::PUT,
    drives::PUT,
    drives::PATCH,
    network_interfaces::PUT,
    network_interfaces::PATCH,
    shared_folders::PUT,
    actions::PUT,
    vm::PATCH,
    snapshot::CREATE,
    snapshot::LOAD,
    snapshot::WORKING_SET,
    logger::PUT,
    metrics::PUT,
    entropy::PUT,
    serial::PUT,
    vsock::PUT,
];

/// A request that has found its endpoint.
struct Call<'a> {
    /// What stands in the path in place of `{…}`; empty if the path has none.
    id: &'a str,
    /// The body; empty if there is none.
    body: &'a [u8],
}

/// What an endpoint makes of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// What is asked.
    pub action: Action,
    /// Whether the request used something deprecated, which the response then says in a header.
    pub deprecated: bool,
}

impl From<Action> for Parsed {
    fn from(action: Action) -> Self {
        Self {
            action,
            deprecated: false,
        }
    }
}

/// Finds the endpoint for a request and reads its body.
///
/// # Errors
/// [`Fault`] with status 400.
pub fn parse(method: Method, path: &str, body: Option<&[u8]>) -> Result<Parsed, Fault> {
    match (method, body) {
        (Method::Get, Some(_)) => return Err(Fault::new("GET request cannot have a body.")),
        (Method::Put, None) => return Err(Fault::new("Empty PUT request.")),
        (Method::Patch, None) => return Err(Fault::new("Empty PATCH request.")),
        (Method::Delete, Some(_)) => return Err(Fault::new("Empty Delete request.")),
        _ => {}
    }
    let trimmed = path.strip_prefix('/').map(|rest| rest.trim_start_matches('/'));
    let trimmed = trimmed.map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    let found = trimmed.and_then(|wanted| {
        let here = OPERATIONS.iter().filter(|operation| operation.method == method);
        here.filter_map(|operation| identifier(operation.path, wanted).map(|id| (operation, id)))
            .next()
    });
    match found {
        Some((operation, id)) => (operation.parse)(&Call {
            id,
            body: body.unwrap_or_default(),
        }),
        None => {
            let shown: String = trimmed.unwrap_or_default().chars().take(MAX_PATH_SHOWN).collect();
            let first = shown.split('/').next().unwrap_or_default();
            let hint = if NOT_YET.contains(&first) {
                format!(" Koya does not support `/{first}` yet.")
            } else {
                String::new()
            };
            Err(Fault::new(format!(
                "Invalid request method and/or path: {} {shown}.{hint}",
                method.as_str()
            )))
        }
    }
}

/// The identifier in `path` if it is the one of `template`; empty if the template has none.
fn identifier<'a>(template: &str, path: &'a str) -> Option<&'a str> {
    let template = template.strip_prefix('/')?;
    match template.split_once("/{") {
        None => (template == path).then_some(""),
        // The rest of the path is the identifier, so that one with a '/' in it is refused as what it is.
        Some((noun, _)) => match path.strip_prefix(noun)? {
            "" => Some(""),
            rest => rest.strip_prefix('/'),
        },
    }
}

/// Reads a body.
fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Fault> {
    json::from_slice(bytes).map_err(|err| {
        let field = err.field();
        let place = if field.is_empty() {
            String::new()
        } else {
            format!(" Field: `{field}`.")
        };
        let message = err.message();
        Fault::new(format!(
            "An error occurred when deserializing the json body of a request: {message}.{place}"
        ))
    })
}

/// Checks the identifier in a path.
fn check_path_id(id: &str) -> Result<(), Fault> {
    check_id(id).map_err(|err| Fault::new(err.to_string()))
}

/// Answers a request: finds the endpoint, lets the handler act, and writes down what came of it.
pub fn answer(request: &Request, handler: &mut impl ActionHandler) -> Response {
    match parse(request.method, &request.path, request.body.as_deref()) {
        Ok(Parsed { action, deprecated }) => Response {
            deprecated,
            ..respond(handler.handle(action))
        },
        Err(fault) => Response::from_fault(&fault),
    }
}

/// Writes down what came of an action.
fn respond(result: Result<Outcome, ActionError>) -> Response {
    let outcome = match result {
        Ok(outcome) => outcome,
        Err(err) => return Response::from_fault(&Fault::from(&err)),
    };
    let written = match &outcome {
        Outcome::Empty => return Response::empty(Status::NoContent),
        Outcome::Instance(info) => serde_json::to_vec(info),
        Outcome::Version(version) => serde_json::to_vec(version),
        Outcome::MachineConfig(machine) => serde_json::to_vec(machine),
        Outcome::VmConfig(config) => serde_json::to_vec(config),
    };
    match written {
        Ok(body) => Response::json(Status::Ok, body),
        // A path that is not UTF-8 cannot be written as JSON; one that came in as JSON always can.
        Err(err) => {
            let message = format!("cannot write the answer as JSON: {err}");
            Response::from_fault(&Fault::with_status(Status::InternalServerError, message))
        }
    }
}

#[cfg(test)]
mod openapi_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MachineConfig;
    use crate::instance::{InstanceInfo, InstanceState};

    pub(super) fn fault(method: Method, path: &str, body: Option<&str>) -> String {
        let fault = parse(method, path, body.map(str::as_bytes)).unwrap_err();
        assert_eq!(fault.status, Status::BadRequest);
        fault.fault_message
    }

    pub(super) fn action(method: Method, path: &str, body: &str) -> Action {
        let body = Some(body.as_bytes()).filter(|body| !body.is_empty());
        parse(method, path, body).unwrap().action
    }

    #[test]
    fn bodies_are_where_they_belong() {
        // The path does not matter for these, as with Firecracker.
        assert_eq!(
            fault(Method::Get, "/mmds", Some("{}")),
            "GET request cannot have a body."
        );
        assert_eq!(fault(Method::Put, "/mmds", None), "Empty PUT request.");
        assert_eq!(fault(Method::Patch, "/vm", None), "Empty PATCH request.");
        assert_eq!(
            fault(Method::Delete, "/drives/a", Some("{}")),
            "Empty Delete request."
        );
    }

    #[test]
    fn unknown_paths_and_methods_are_named() {
        for (method, path, text) in [
            (Method::Get, "/foo", "GET foo"),
            (Method::Get, "none", "GET "),
            (Method::Get, "/vm", "GET vm"),
            (Method::Get, "/machine-config/x", "GET machine-config/x"),
            (Method::Delete, "/drives/a", "DELETE drives/a"),
        ] {
            assert_eq!(
                fault(method, path, None),
                format!("Invalid request method and/or path: {text}.")
            );
        }
        for path in ["boot-source", "logger", "vm/config"] {
            let text = fault(Method::Patch, &format!("/{path}"), Some("{}"));
            assert_eq!(text, format!("Invalid request method and/or path: PATCH {path}."));
        }
        assert!(fault(Method::Get, &format!("/{}", "x".repeat(8000)), None).len() < 256);
    }

    #[test]
    fn slashes_around_a_path_do_not_matter() {
        for path in ["/version", "//version", "/version/"] {
            assert_eq!(action(Method::Get, path, ""), Action::GetVersion);
        }
        for path in ["/", "//"] {
            assert_eq!(action(Method::Get, path, ""), Action::GetInstance);
        }
    }

    #[test]
    fn body_errors_keep_the_text_clients_match() {
        assert_eq!(
            fault(Method::Put, "/actions", Some("")),
            "An error occurred when deserializing the json body of a request: EOF while parsing a value at line 1 \
             column 0."
        );
        assert_eq!(
            fault(
                Method::Put,
                "/machine-config",
                Some(r#"{"vcpu_count":1,"mem_size_mib":1,"smt":"no"}"#)
            ),
            "An error occurred when deserializing the json body of a request: invalid type: string \"no\", expected \
             a boolean at line 1 column 43. Field: `smt`."
        );
    }

    #[test]
    fn outcomes_and_errors_become_responses() {
        let get = Request {
            method: Method::Get,
            path: "/".into(),
            body: None,
            keep_alive: true,
        };
        let mut handler = |action: Action| match action {
            Action::GetInstance => Ok(Outcome::Instance(InstanceInfo::new(
                "a",
                InstanceState::NotStarted,
            ))),
            Action::GetMachineConfig => Ok(Outcome::MachineConfig(MachineConfig::default())),
            Action::GetVersion => Err(ActionError::NotSupportedBeforeStart),
            _ => Ok(Outcome::Empty),
        };
        let response = answer(&get, &mut handler);
        assert_eq!(response.status, Status::Ok);
        let body: serde_json::Value = serde_json::from_slice(&response.body.unwrap()).unwrap();
        assert_eq!(
            (&body["id"], &body["state"], &body["app_name"]),
            (&"a".into(), &"Not started".into(), &"Koya".into())
        );

        let response = answer(
            &Request {
                path: "/version".into(),
                ..get.clone()
            },
            &mut handler,
        );
        assert_eq!(response.status, Status::BadRequest);
        assert_eq!(
            response.body.unwrap(),
            br#"{"fault_message":"The requested operation is not supported before starting the microVM."}"#
        );

        let put = Request {
            method: Method::Put,
            path: "/entropy".into(),
            body: Some(b"{}".into()),
            ..get
        };
        assert_eq!(answer(&put, &mut handler), Response::empty(Status::NoContent));
    }

    #[test]
    fn deprecation_reaches_the_response() {
        let body = br#"{"vcpu_count":1,"mem_size_mib":1,"cpu_template":"None"}"#.to_vec();
        let put = Request {
            method: Method::Put,
            path: "/machine-config".into(),
            body: Some(body),
            keep_alive: true,
        };
        let response = answer(&put, &mut |_: Action| Ok(Outcome::Empty));
        assert!(response.deprecated);
    }
}
