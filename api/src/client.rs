//! A small blocking client of the API, for programs that drive a VMM and for tests.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use httparse::EMPTY_HEADER;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::http::{MAX_HEAD_BYTES, MAX_HEADERS, Method};
use crate::json::{self, JsonError};

/// Largest body of a response the client takes, in bytes.
const MAX_BODY: usize = 16 << 20;

/// Why a request got no response.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("cannot connect to the API socket {path:?}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The request cannot be sent.
    #[error("cannot send a request to the API socket")]
    Send(#[source] io::Error),
    /// The response cannot be received; among others, because it did not come in time.
    #[error("cannot receive the response from the API socket")]
    Receive(#[source] io::Error),
    /// The connection ended in the middle of the response, or before it.
    #[error("the API socket closed the connection before the response was complete")]
    Closed,
    /// The response is not HTTP.
    #[error("the response from the API socket is not HTTP")]
    NotHttp,
    /// The response is larger than any of this API's.
    #[error("the response from the API socket is larger than {MAX_BODY} bytes")]
    TooLarge,
}

/// A connection to a VMM's API.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    timeout: Duration,
    input: Vec<u8>,
}

/// A response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientResponse {
    /// The status code.
    pub status: u16,
    /// The headers, with names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body; empty if there is none.
    pub body: Vec<u8>,
}

impl ClientResponse {
    /// Whether the request was carried out.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The first header with this name, given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }

    /// Reads the body.
    ///
    /// # Errors
    /// [`JsonError`] if it is not a `T`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, JsonError> {
        json::from_slice(&self.body)
    }

    /// Why the request was refused, if it was.
    pub fn fault_message(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Body {
            fault_message: String,
        }
        self.json().ok().map(|Body { fault_message }| fault_message)
    }
}

impl Client {
    /// Connects to the socket at `path`. Each request may take `timeout`.
    ///
    /// # Errors
    /// [`ClientError::Connect`]
    pub fn connect(path: &Path, timeout: Duration) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path);
        let stream = stream.map_err(|source| ClientError::Connect {
            path: path.into(),
            source,
        })?;
        Ok(Self {
            stream,
            timeout,
            input: Vec::new(),
        })
    }

    /// Sends a request and waits for the response.
    ///
    /// # Errors
    /// [`ClientError`]; a refusal is not one, but a response.
    pub fn request(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&str>,
    ) -> Result<ClientResponse, ClientError> {
        let deadline = Instant::now().checked_add(self.timeout);
        let body = body.unwrap_or_default();
        let mut request = format!(
            "{} {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n",
            method.as_str()
        );
        if !body.is_empty() {
            request.push_str(&format!(
                "Content-Type: application/json\r\nContent-Length: {}\r\n",
                body.len()
            ));
        }
        request.push_str("\r\n");
        request.push_str(body);
        self.stream
            .set_write_timeout(Some(self.timeout))
            .map_err(ClientError::Send)?;
        match self.stream.write_all(request.as_bytes()) {
            // A server that refuses a request may stop reading it; the response tells why.
            Err(err) if err.kind() == ErrorKind::BrokenPipe => {}
            result => result.map_err(ClientError::Send)?,
        }
        self.response(deadline)
    }

    /// `GET`
    ///
    /// # Errors
    /// As [`Self::request`].
    pub fn get(&mut self, path: &str) -> Result<ClientResponse, ClientError> {
        self.request(Method::Get, path, None)
    }

    /// `PUT`
    ///
    /// # Errors
    /// As [`Self::request`].
    pub fn put(&mut self, path: &str, body: &str) -> Result<ClientResponse, ClientError> {
        self.request(Method::Put, path, Some(body))
    }

    /// `PATCH`
    ///
    /// # Errors
    /// As [`Self::request`].
    pub fn patch(&mut self, path: &str, body: &str) -> Result<ClientResponse, ClientError> {
        self.request(Method::Patch, path, Some(body))
    }

    fn response(&mut self, deadline: Option<Instant>) -> Result<ClientResponse, ClientError> {
        let (mut response, length) = loop {
            match parse_head(&self.input)? {
                Some((head, consumed)) => {
                    self.input.drain(..consumed);
                    // Interim responses (1xx) announce the real one.
                    if head.0.status >= 200 {
                        break head;
                    }
                }
                None if self.input.len() >= MAX_HEAD_BYTES => return Err(ClientError::NotHttp),
                None => self.receive(deadline)?,
            }
        };
        if length > MAX_BODY {
            return Err(ClientError::TooLarge);
        }
        while self.input.len() < length {
            self.receive(deadline)?;
        }
        let rest = self.input.split_off(length);
        response.body = std::mem::replace(&mut self.input, rest);
        Ok(response)
    }

    /// Waits for more bytes.
    fn receive(&mut self, deadline: Option<Instant>) -> Result<(), ClientError> {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(ClientError::Receive(ErrorKind::TimedOut.into()));
        }
        self.stream.set_read_timeout(left).map_err(ClientError::Receive)?;
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(ClientError::Closed),
            Ok(count) => {
                self.input
                    .extend_from_slice(buffer.get(..count).unwrap_or_default());
                Ok(())
            }
            Err(err) if err.kind() == ErrorKind::Interrupted => Ok(()),
            Err(err) if err.kind() == ErrorKind::WouldBlock => {
                Err(ClientError::Receive(ErrorKind::TimedOut.into()))
            }
            Err(err) => Err(ClientError::Receive(err)),
        }
    }
}

/// A response without its body, the body's length, and how many bytes that took; `None` while it is incomplete.
type Head = ((ClientResponse, usize), usize);

fn parse_head(input: &[u8]) -> Result<Option<Head>, ClientError> {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut headers);
    let consumed = match parsed.parse(input) {
        Ok(httparse::Status::Complete(consumed)) => consumed,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(ClientError::NotHttp),
    };
    let mut response = ClientResponse {
        status: parsed.code.unwrap_or_default(),
        headers: Vec::new(),
        body: Vec::new(),
    };
    for header in parsed.headers.iter() {
        let value = String::from_utf8_lossy(header.value).into_owned();
        response.headers.push((header.name.to_ascii_lowercase(), value));
    }
    let length = match response.header("content-length") {
        Some(text) => text.parse().map_err(|_| ClientError::NotHttp)?,
        None => 0,
    };
    Ok(Some(((response, length), consumed)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::thread;
    use vmm_sys_util::tempdir::TempDir;

    const PATIENCE: Duration = Duration::from_secs(5);

    /// What the client makes of these bytes, sent one by one in answer to anything, before the connection ends.
    fn answer(bytes: &'static [u8]) -> Result<ClientResponse, ClientError> {
        let dir = TempDir::new().unwrap();
        let path = dir.as_path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 512];
            let _ = stream.read(&mut request).unwrap();
            for byte in bytes {
                // The client may know enough already and have left.
                let _ = stream.write_all(&[*byte]);
            }
        });
        let result = Client::connect(&path, PATIENCE).unwrap().put("/actions", "{}");
        server.join().unwrap();
        result
    }

    #[test]
    fn responses_are_read_to_their_end() {
        let response = answer(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 400 \r\nDeprecation: true\r\nContent-Length: 22\r\n\r\n{\"fault_message\":\"no\"}",
        );
        let response = response.unwrap();
        assert_eq!(
            (response.status, response.header("deprecation")),
            (400, Some("true"))
        );
        assert_eq!(response.fault_message().as_deref(), Some("no"));
        let response = answer(b"HTTP/1.1 204 \r\nServer: x\r\n\r\n").unwrap();
        assert!(response.is_success() && response.body.is_empty() && response.fault_message().is_none());
    }

    #[test]
    fn what_is_no_response_is_an_error() {
        assert!(matches!(answer(b""), Err(ClientError::Closed)));
        assert!(matches!(
            answer(b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\n{"),
            Err(ClientError::Closed)
        ));
        assert!(matches!(answer(b"SSH-2.0-x\r\n\r\n"), Err(ClientError::NotHttp)));
        assert!(matches!(
            answer(b"HTTP/1.1 200 \r\nContent-Length: 999999999\r\n\r\n"),
            Err(ClientError::TooLarge)
        ));
    }

    #[test]
    fn a_server_that_says_nothing_is_given_up_on() {
        let dir = TempDir::new().unwrap();
        let path = dir.as_path().join("s");
        let _listener = UnixListener::bind(&path).unwrap();
        let mut client = Client::connect(&path, Duration::from_millis(50)).unwrap();
        let Err(ClientError::Receive(err)) = client.get("/") else {
            panic!("an answer from nobody")
        };
        assert_eq!(err.kind(), ErrorKind::TimedOut);
        assert!(matches!(
            Client::connect(&dir.as_path().join("none"), PATIENCE),
            Err(ClientError::Connect { .. })
        ));
    }
}
