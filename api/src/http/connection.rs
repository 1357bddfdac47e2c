//! One connection's state: bytes in, requests out; responses in, bytes out.

use super::request::{Head, HeadError};
use super::{DEFAULT_PAYLOAD_LIMIT, MAX_HEAD_BYTES, Request, Response, Status};
use crate::error::Fault;

/// What a connection may make the server hold.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// Largest body, in bytes.
    pub payload: usize,
    /// With this many bytes of responses waiting to be sent, no further request is read.
    pub unsent: usize,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            payload: DEFAULT_PAYLOAD_LIMIT,
            unsent: 64 << 10,
        }
    }
}

/// The interim response that asks for the body (RFC 9110 §15.2.1).
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// An HTTP connection, seen from the server, without its socket.
///
/// Requests are taken out and answered one after the other, so responses are in order; a client that sends faster than
/// it reads is held back by [`Self::wants_input`].
#[derive(Debug)]
pub struct Connection {
    limits: ConnectionLimits,
    input: Vec<u8>,
    /// The head of a request whose body is still coming.
    head: Option<Head>,
    /// Whether the request taken out last lets the connection go on.
    keep_alive: bool,
    output: Vec<u8>,
    /// How much of `output` has been sent.
    sent: usize,
    closing: bool,
}

impl Connection {
    /// A connection on which nothing has happened yet.
    pub fn new(limits: ConnectionLimits) -> Self {
        Self {
            limits,
            input: Vec::new(),
            head: None,
            keep_alive: true,
            output: Vec::new(),
            sent: 0,
            closing: false,
        }
    }

    /// Takes in what the client sent. Ignored once the connection [is closing](Self::is_closing).
    pub fn receive(&mut self, bytes: &[u8]) {
        if !self.closing {
            self.input.extend_from_slice(bytes);
        }
    }

    /// Whether there is room for more of what the client sends.
    pub fn wants_input(&self) -> bool {
        let room = self.limits.payload.saturating_add(MAX_HEAD_BYTES);
        !self.closing && !self.is_saturated() && self.input.len() < room
    }

    fn is_saturated(&self) -> bool {
        self.output().len() >= self.limits.unsent
    }

    /// The next whole request, to be answered with [`Self::respond`] before the one after it.
    ///
    /// `None` when there is none yet, when the client first has to read what it was answered, and when the connection is
    /// closing. A request that cannot be understood is answered here, and closes the connection.
    pub fn next_request(&mut self) -> Option<Request> {
        if self.closing || self.is_saturated() {
            return None;
        }
        let head = match self.head.take() {
            Some(head) => head,
            None => match self.read_head() {
                Ok(head) => head?,
                Err(err) => {
                    self.refuse(&Fault::with_status(err.status(), err.to_string()));
                    return None;
                }
            },
        };
        if self.input.len() < head.content_length {
            self.head = Some(head);
            return None;
        }
        self.keep_alive = head.keep_alive;
        let body = (head.content_length > 0).then(|| {
            let rest = self.input.split_off(head.content_length);
            std::mem::replace(&mut self.input, rest)
        });
        Some(Request {
            method: head.method,
            path: head.path,
            body,
            keep_alive: head.keep_alive,
        })
    }

    /// Takes a head from the input, and asks for the body if the client waits for that.
    fn read_head(&mut self) -> Result<Option<Head>, HeadError> {
        let Some((head, length)) = Head::parse(&self.input)? else {
            return Ok(None);
        };
        let (size, limit) = (head.content_length, self.limits.payload);
        if size > limit {
            return Err(HeadError::PayloadTooLarge { size, limit });
        }
        self.input.drain(..length);
        if head.expects_continue && self.input.len() < size {
            self.output.extend_from_slice(CONTINUE);
        }
        Ok(Some(head))
    }

    /// Answers the request taken out last.
    pub fn respond(&mut self, response: &Response) {
        response.write(self.keep_alive, &mut self.output);
        if !self.keep_alive {
            self.close();
        }
    }

    /// Answers something that is no request, and closes the connection.
    pub fn refuse(&mut self, fault: &Fault) {
        self.keep_alive = false;
        self.respond(&Response::from_fault(fault));
    }

    /// Refuses the unfinished request because the rest of it takes too long.
    pub fn time_out(&mut self) {
        self.refuse(&Fault::with_status(
            Status::RequestTimeout,
            "The rest of the request did not come in time.",
        ));
    }

    /// Lets the connection end once the output is sent.
    pub fn close(&mut self) {
        self.closing = true;
        self.input = Vec::new();
        self.head = None;
    }

    /// What is to be sent.
    pub fn output(&self) -> &[u8] {
        self.output.get(self.sent..).unwrap_or_default()
    }

    /// Notes that the first `count` bytes of [`Self::output`] have been sent.
    pub fn advance(&mut self, count: usize) {
        self.sent = self.sent.saturating_add(count).min(self.output.len());
        if self.sent == self.output.len() {
            self.output.clear();
            self.sent = 0;
            // A large answer should not stay with the connection for good.
            self.output.shrink_to(4 << 10);
        }
    }

    /// Whether no further request will be read.
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// Whether a request has begun and is not whole yet.
    pub fn has_partial_request(&self) -> bool {
        self.head.is_some() || !self.input.is_empty()
    }

    /// Whether nothing is under way: neither a part of a request nor unsent output.
    pub fn is_idle(&self) -> bool {
        !self.closing && !self.has_partial_request() && self.output.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects)]
    use super::*;
    use crate::http::Method;

    fn connection() -> Connection {
        Connection::new(ConnectionLimits::default())
    }

    /// Answers every request with its method, path and body length; gives the requests and the bytes sent.
    fn pump(connection: &mut Connection) -> (Vec<Request>, String) {
        let mut requests = Vec::new();
        while let Some(request) = connection.next_request() {
            let body = format!("{} {}", request.path, request.body.as_ref().map_or(0, Vec::len));
            connection.respond(&Response::json(Status::Ok, body.into()));
            requests.push(request);
        }
        let sent = String::from_utf8(connection.output().to_vec()).unwrap();
        connection.advance(sent.len());
        (requests, sent)
    }

    const THREE: &str = "PUT /actions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello\
                         GET /version HTTP/1.1\r\n\r\n\
                         PATCH /vm HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}";

    #[test]
    fn requests_survive_every_cut() {
        let mut whole = connection();
        whole.receive(THREE.as_bytes());
        let (requests, answers) = pump(&mut whole);
        assert_eq!(requests.len(), 3);
        assert_eq!(
            (requests[0].method, requests[0].body.as_deref()),
            (Method::Put, Some(&b"hello"[..]))
        );
        assert_eq!(
            (requests[1].path.as_str(), requests[1].body.as_deref()),
            ("/version", None)
        );
        assert!(whole.is_idle());
        for cut in 0..=THREE.len() {
            let mut parts = connection();
            let (mut got, mut text) = (Vec::new(), String::new());
            for part in [&THREE[..cut], &THREE[cut..]] {
                assert!(parts.wants_input());
                parts.receive(part.as_bytes());
                let (more, sent) = pump(&mut parts);
                got.extend(more);
                text.push_str(&sent);
            }
            assert_eq!((&got, &text), (&requests, &answers), "cut at {cut}");
        }
    }

    #[test]
    fn requests_survive_single_bytes() {
        let mut slow = connection();
        let mut requests = Vec::new();
        for byte in THREE.bytes() {
            slow.receive(&[byte]);
            requests.extend(pump(&mut slow).0);
        }
        assert_eq!(requests.len(), 3);
    }

    #[test]
    fn a_body_is_asked_for_once_and_only_if_it_is_waited_for() {
        let head = "PUT /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
        let mut waiting = connection();
        waiting.receive(head.as_bytes());
        assert_eq!(
            pump(&mut waiting),
            (vec![], "HTTP/1.1 100 Continue\r\n\r\n".into())
        );
        waiting.receive(b"{");
        assert_eq!(pump(&mut waiting).1, "");
        waiting.receive(b"}");
        assert_eq!(pump(&mut waiting).0.len(), 1);

        let mut at_once = connection();
        at_once.receive(format!("{head}{{}}").as_bytes());
        assert!(pump(&mut at_once).1.starts_with("HTTP/1.1 200"));
    }

    #[test]
    fn a_body_over_the_limit_is_refused_before_it_comes() {
        let mut small = Connection::new(ConnectionLimits {
            payload: 50,
            ..ConnectionLimits::default()
        });
        small.receive(b"GET / HTTP/1.1\r\n\r\nPUT /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 50000\r\n\r\naaa");
        let (requests, sent) = pump(&mut small);
        // What came before is still answered.
        assert_eq!(requests.len(), 1);
        assert!(sent.contains("HTTP/1.1 400 Bad Request") && sent.contains("Connection: close"));
        assert!(!sent.contains("100 Continue"));
        assert!(sent.ends_with(
            r#"{"fault_message":"Request payload with size 50000 is larger than the limit of 50 allowed by server."}"#
        ));
        assert!(small.is_closing() && !small.wants_input());
        small.receive(b"GET / HTTP/1.1\r\n\r\n");
        assert_eq!(pump(&mut small), (vec![], String::new()));
    }

    #[test]
    fn a_body_of_exactly_the_limit_is_taken() {
        let mut exact = connection();
        exact.receive(
            format!("PUT /a HTTP/1.1\r\nContent-Length: {DEFAULT_PAYLOAD_LIMIT}\r\n\r\n").as_bytes(),
        );
        for _ in 0..DEFAULT_PAYLOAD_LIMIT / 512 {
            assert!(exact.wants_input());
            assert_eq!(pump(&mut exact).0.len(), 0);
            exact.receive(&[b'x'; 512]);
        }
        assert_eq!(
            pump(&mut exact).0[0].body.as_ref().unwrap().len(),
            DEFAULT_PAYLOAD_LIMIT
        );
    }

    #[test]
    fn close_is_honoured() {
        let mut once = connection();
        once.receive(b"GET /a HTTP/1.1\r\nConnection: close\r\n\r\nGET /b HTTP/1.1\r\n\r\n");
        let (requests, sent) = pump(&mut once);
        assert_eq!(requests.len(), 1);
        assert!(sent.contains("Connection: close"));
    }

    #[test]
    fn a_client_that_does_not_read_is_held_back() {
        let limits = ConnectionLimits {
            unsent: 1000,
            ..ConnectionLimits::default()
        };
        let mut greedy = Connection::new(limits);
        let mut taken = 0;
        let mut answered = 0;
        while greedy.wants_input() {
            greedy.receive(&b"GET /a HTTP/1.1\r\n\r\n".repeat(100));
            taken += 100;
            while greedy.next_request().is_some() {
                greedy.respond(&Response::empty(Status::NoContent));
                answered += 1;
            }
            assert!(taken < 10_000, "never held back");
        }
        assert!(greedy.output().len() < 1000 + 200);
        // Reading lets it go on, and nothing is lost.
        while answered < taken {
            greedy.advance(greedy.output().len());
            while greedy.next_request().is_some() {
                greedy.respond(&Response::empty(Status::NoContent));
                answered += 1;
            }
        }
        greedy.advance(greedy.output().len());
        assert!(greedy.is_idle());
    }

    #[test]
    fn partial_sends_are_continued() {
        let mut connection = connection();
        connection.receive(b"GET /a HTTP/1.1\r\n\r\n");
        connection.next_request().unwrap();
        connection.respond(&Response::empty(Status::NoContent));
        let whole = connection.output().to_vec();
        let mut sent = Vec::new();
        while !connection.output().is_empty() {
            sent.push(connection.output()[0]);
            connection.advance(1);
        }
        assert_eq!(sent, whole);
    }

    /// Bytes from a fixed recurrence, so that a failure can be repeated.
    struct Dice(u64);
    impl Dice {
        fn roll(&mut self, sides: usize) -> usize {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as usize % sides
        }
    }

    #[test]
    fn no_bytes_panic_or_grow_it() {
        let mut dice = Dice(7);
        for _ in 0..20_000 {
            let mut bytes = THREE.as_bytes().to_vec();
            for _ in 0..dice.roll(6) {
                let at = dice.roll(bytes.len());
                match dice.roll(4) {
                    0 => bytes[at] = dice.roll(256) as u8,
                    1 => bytes.truncate(at.max(1)),
                    2 => bytes.insert(at, b"\r\n :,0\0\xff"[dice.roll(8)]),
                    _ => {
                        let tail = bytes[at..].to_vec();
                        bytes.extend(tail);
                    }
                }
            }
            let mut connection = connection();
            while !bytes.is_empty() && connection.wants_input() {
                let part: Vec<u8> = bytes.drain(..(1 + dice.roll(40)).min(bytes.len())).collect();
                connection.receive(&part);
                while let Some(request) = connection.next_request() {
                    assert!(request.body.is_none_or(|body| !body.is_empty()));
                    connection.respond(&Response::empty(Status::NoContent));
                }
            }
            if connection.is_closing() {
                let output = connection.output();
                assert!(output.windows(17).any(|part| part == b"Connection: close"));
            }
        }
    }
}
