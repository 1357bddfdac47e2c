//! The head of a request: request line and headers.

use httparse::{EMPTY_HEADER, Header};

use super::Status;

/// Longest request line with headers, in bytes.
pub const MAX_HEAD_BYTES: usize = 8 << 10;
/// Most headers in a request.
pub const MAX_HEADERS: usize = 64;

/// The methods of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Read.
    Get,
    /// Create or replace.
    Put,
    /// Change parts.
    Patch,
    /// Remove. No endpoint has it yet.
    Delete,
}

impl Method {
    /// As it is written in a request.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Get, Self::Put, Self::Patch, Self::Delete]
            .into_iter()
            .find(|method| method.as_str() == text)
    }
}

/// A whole request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What to do.
    pub method: Method,
    /// With what: the path, without scheme and host if the client gave them.
    pub path: String,
    /// The body, if there is one; never empty.
    pub body: Option<Vec<u8>>,
    /// Whether the client wants to use the connection again.
    pub keep_alive: bool,
}

/// A request that cannot be answered by an endpoint. The connection ends with it, because where the next request starts
/// is no longer known for certain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// It is not HTTP.
    #[error("Invalid request. {0}: it must be HTTP/1.1 or HTTP/1.0")]
    NotHttp(httparse::Error),
    /// The head does not end.
    #[error("Invalid request. The request line and headers must have at most {MAX_HEAD_BYTES} bytes")]
    TooLong,
    /// There are too many headers.
    #[error("Invalid request. There must be at most {MAX_HEADERS} headers")]
    TooManyHeaders,
    /// A method that is not used here. Clients know the first half of the text.
    #[error("Invalid HTTP Method: Unsupported HTTP method. It must be GET, PUT, PATCH or DELETE")]
    Method,
    /// A `Content-Length` that is no number, or more than one.
    #[error("Invalid header. Reason: Content-Length must be given once, as a number of bytes")]
    ContentLength,
    /// A body in a coding.
    #[error("Transfer-Encoding is not supported: the body must come as it is, with a Content-Length")]
    TransferEncoding,
    /// The body is too large. Clients know this text.
    #[error("Request payload with size {size} is larger than the limit of {limit} allowed by server.")]
    PayloadTooLarge {
        /// The size the client announced, in bytes.
        size: usize,
        /// The largest size, in bytes.
        limit: usize,
    },
}

impl HeadError {
    /// The status code of the answer.
    pub const fn status(&self) -> Status {
        match self {
            Self::TransferEncoding => Status::NotImplemented,
            // Too large a payload is a 400 with Firecracker, not a 413.
            _ => Status::BadRequest,
        }
    }
}

/// What the head says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub method: Method,
    pub path: String,
    pub content_length: usize,
    pub keep_alive: bool,
    pub expects_continue: bool,
}

impl Head {
    /// Reads a head from the start of `bytes`; with it, its length. `None` while it is incomplete.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, HeadError> {
        let mut headers = [EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        let window = bytes.get(..MAX_HEAD_BYTES).unwrap_or(bytes);
        let length = match request.parse(window) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if bytes.len() >= MAX_HEAD_BYTES => return Err(HeadError::TooLong),
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooManyHeaders),
            Err(err) => return Err(HeadError::NotHttp(err)),
        };
        let method = request.method.and_then(Method::parse).ok_or(HeadError::Method)?;
        let mut head = Self {
            method,
            path: path_of(request.path.unwrap_or_default()).into(),
            content_length: 0,
            keep_alive: request.version == Some(1),
            expects_continue: false,
        };
        head.read_headers(request.headers)?;
        if request.version == Some(0) {
            // HTTP/1.0 knows no interim responses.
            head.expects_continue = false;
        }
        Ok(Some((head, length)))
    }

    fn read_headers(&mut self, headers: &[Header<'_>]) -> Result<(), HeadError> {
        let mut length_given = false;
        for Header { name, value } in headers {
            if name.eq_ignore_ascii_case("content-length") {
                if length_given {
                    return Err(HeadError::ContentLength);
                }
                length_given = true;
                self.content_length = number(value).ok_or(HeadError::ContentLength)?;
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                if !value.eq_ignore_ascii_case(b"identity") {
                    return Err(HeadError::TransferEncoding);
                }
            } else if name.eq_ignore_ascii_case("expect") {
                self.expects_continue |= value.eq_ignore_ascii_case(b"100-continue");
            } else if name.eq_ignore_ascii_case("connection") {
                for option in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                    if option.eq_ignore_ascii_case(b"close") {
                        self.keep_alive = false;
                        break;
                    }
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
        }
        Ok(())
    }
}

/// The path of a request target, which may be given with scheme and host (RFC 9112 §3.2.2).
fn path_of(target: &str) -> &str {
    match target.strip_prefix("http://") {
        None => target,
        Some(rest) => rest.find('/').and_then(|slash| rest.get(slash..)).unwrap_or("/"),
    }
}

/// A number written in digits only.
fn number(text: &[u8]) -> Option<usize> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Result<Option<(Head, usize)>, HeadError> {
        Head::parse(text.as_bytes())
    }

    fn with(headers: &str) -> Result<Head, HeadError> {
        head(&format!("PUT /a HTTP/1.1\r\n{headers}\r\n")).map(|found| found.unwrap().0)
    }

    #[test]
    fn a_head_is_read() {
        let text =
            "PUT http://localhost/drives/a HTTP/1.1\r\nContent-Length: 12\r\nExpect: 100-Continue\r\n\r\n";
        let (head, length) = head(text).unwrap().unwrap();
        assert_eq!(
            (head.method, head.path.as_str(), head.content_length),
            (Method::Put, "/drives/a", 12)
        );
        assert!(head.keep_alive && head.expects_continue);
        assert_eq!(length, text.len());
    }

    #[test]
    fn versions_and_connection_decide_on_keep_alive() {
        let alive = |text: &str| head(text).unwrap().unwrap().0.keep_alive;
        assert!(alive("GET / HTTP/1.1\r\n\r\n"));
        assert!(!alive("GET / HTTP/1.1\r\nConnection: foo , Close\r\n\r\n"));
        assert!(!alive("GET / HTTP/1.0\r\n\r\n"));
        assert!(alive("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"));
        let old = head("PUT / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n")
            .unwrap()
            .unwrap()
            .0;
        assert!(!old.expects_continue);
    }

    #[test]
    fn lengths_are_given_once_and_in_digits() {
        for value in [
            "",
            "-1",
            "+1",
            "0x10",
            "1 2",
            "1,1",
            "99999999999999999999999",
            "1\r\nContent-Length: 1",
        ] {
            assert_eq!(
                with(&format!("Content-Length: {value}\r\n")),
                Err(HeadError::ContentLength),
                "{value}"
            );
        }
        assert_eq!(with("Content-Length: 007\r\n").unwrap().content_length, 7);
    }

    #[test]
    fn other_things_are_refused() {
        assert_eq!(
            with("Transfer-Encoding: chunked\r\n"),
            Err(HeadError::TransferEncoding)
        );
        assert_eq!(with("Transfer-Encoding: identity\r\n").unwrap().content_length, 0);
        assert_eq!(head("POST / HTTP/1.1\r\n\r\n"), Err(HeadError::Method));
        assert_eq!(head("get / HTTP/1.1\r\n\r\n"), Err(HeadError::Method));
        assert!(matches!(
            head("GET / HTTP/2.0\r\n\r\n"),
            Err(HeadError::NotHttp(_))
        ));
        assert!(matches!(head("\0\x01\x02"), Err(HeadError::NotHttp(_))));
        let many = |count: usize| with(&"a: b\r\n".repeat(count));
        assert!(many(MAX_HEADERS).is_ok());
        assert_eq!(many(MAX_HEADERS + 1), Err(HeadError::TooManyHeaders));
    }

    #[test]
    fn a_head_without_end_is_refused() {
        assert_eq!(
            head(&format!("GET /{}", "x".repeat(MAX_HEAD_BYTES - 6))),
            Ok(None)
        );
        assert_eq!(
            head(&format!("GET /{}", "x".repeat(MAX_HEAD_BYTES))),
            Err(HeadError::TooLong)
        );
        assert_eq!(head(&"\r\n".repeat(MAX_HEAD_BYTES)), Err(HeadError::TooLong));
    }
}
