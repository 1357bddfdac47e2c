//! Responses, and how they are written.

use std::io::Write;

use crate::error::Fault;

/// The `Server` header of every response.
pub const SERVER_NAME: &str = "Koya API";

/// The status codes the API uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Status {
    /// 200: here is what was asked for.
    #[default]
    Ok,
    /// 204: done, nothing to say.
    NoContent,
    /// 400: refused, for a reason the body gives.
    BadRequest,
    /// 408: the rest of the request did not come in time.
    RequestTimeout,
    /// 500: the answer cannot be given.
    InternalServerError,
    /// 501: the request uses a part of HTTP that is not there.
    NotImplemented,
    /// 503: too many connections.
    ServiceUnavailable,
}

impl Status {
    /// The three digits.
    pub const fn code(self) -> u16 {
        match self {
            Self::Ok => 200,
            Self::NoContent => 204,
            Self::BadRequest => 400,
            Self::RequestTimeout => 408,
            Self::InternalServerError => 500,
            Self::NotImplemented => 501,
            Self::ServiceUnavailable => 503,
        }
    }

    const fn reason(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::NoContent => "No Content",
            Self::BadRequest => "Bad Request",
            Self::RequestTimeout => "Request Timeout",
            Self::InternalServerError => "Internal Server Error",
            Self::NotImplemented => "Not Implemented",
            Self::ServiceUnavailable => "Service Unavailable",
        }
    }
}

/// A response.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: Status,
    /// The body, JSON; none with [`Status::NoContent`].
    pub body: Option<Vec<u8>>,
    /// Whether the request used something deprecated: the header `Deprecation: true`.
    pub deprecated: bool,
}

impl Response {
    /// A response without a body.
    pub fn empty(status: Status) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    /// A response with a JSON body.
    pub fn json(status: Status, body: Vec<u8>) -> Self {
        Self {
            status,
            body: Some(body),
            ..Self::default()
        }
    }

    /// A refusal.
    pub fn from_fault(fault: &Fault) -> Self {
        // A fault is one string, which is always JSON; an empty body would be the honest rest.
        Self::json(fault.status, serde_json::to_vec(fault).unwrap_or_default())
    }

    /// Appends the response to `out`.
    pub(super) fn write(&self, keep_alive: bool, out: &mut Vec<u8>) {
        let connection = if keep_alive { "keep-alive" } else { "close" };
        let deprecation = if self.deprecated {
            "Deprecation: true\r\n"
        } else {
            ""
        };
        // Writing to a Vec does not fail.
        let _ = write!(
            out,
            "HTTP/1.1 {} {}\r\nServer: {SERVER_NAME}\r\nConnection: {connection}\r\n{deprecation}",
            self.status.code(),
            self.status.reason(),
        );
        match &self.body {
            Some(body) => {
                let _ = write!(
                    out,
                    "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                );
                out.extend_from_slice(body);
            }
            // RFC 9110 §8.6: no Content-Length in a 204.
            None if self.status == Status::NoContent => out.extend_from_slice(b"\r\n"),
            None => out.extend_from_slice(b"Content-Length: 0\r\n\r\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(response: &Response, keep_alive: bool) -> String {
        let mut out = Vec::new();
        response.write(keep_alive, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn responses_have_the_headers_clients_expect() {
        assert_eq!(
            written(&Response::empty(Status::NoContent), true),
            "HTTP/1.1 204 No Content\r\nServer: Koya API\r\nConnection: keep-alive\r\n\r\n"
        );
        assert_eq!(
            written(
                &Response {
                    deprecated: true,
                    ..Response::json(Status::Ok, b"{}".to_vec())
                },
                false
            ),
            "HTTP/1.1 200 OK\r\nServer: Koya API\r\nConnection: close\r\nDeprecation: true\r\n\
             Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
        );
    }
}
