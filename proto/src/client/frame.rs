//! How ttRPC puts messages on a connection.
//!
//! ```text
//!  0        4           8      9       10
//!  | length | stream id | type | flags | a message of `length` bytes …
//! ```
//!
//! Both numbers are big-endian. A request's stream id is odd and its answer has
//! the same; flags are for streams of messages, which this protocol has none of.

use super::error::ConnectionError;

/// Bytes of a message, at most: ttRPC's limit.
pub(super) const MAX_BODY: usize = 4 << 20;
/// Type of a request.
const REQUEST: u8 = 1;
/// Type of an answer.
pub(super) const RESPONSE: u8 = 2;
/// Bytes before a message.
pub(super) const HEADER: usize = 10;
/// Bytes that an inbox keeps room for when it is empty.
const KEPT: usize = 4 << 10;

/// A request as it goes over the wire. `body` has at most [`MAX_BODY`] bytes.
pub(super) fn request(stream: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let mut message = Vec::with_capacity(HEADER.saturating_add(body.len()));
    message.extend_from_slice(&length.to_be_bytes());
    message.extend_from_slice(&stream.to_be_bytes());
    message.extend_from_slice(&[REQUEST, 0]);
    message.extend_from_slice(body);
    message
}

/// Bytes that came and are not a whole message yet. It grows with what comes,
/// not with what a header promises, and never beyond one message and a piece.
#[derive(Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    /// What comes before has been taken.
    start: usize,
}

impl Inbox {
    /// Takes what came. Everything that was whole before has to be
    /// [taken](Self::next) out first.
    pub fn push(&mut self, piece: &[u8]) {
        self.bytes.drain(..self.start.min(self.bytes.len()));
        self.start = 0;
        if self.bytes.is_empty() {
            self.bytes.shrink_to(KEPT);
        }
        self.bytes.extend_from_slice(piece);
    }

    /// The next answer that is whole: its stream id and its message.
    ///
    /// # Errors
    /// [`ConnectionError::TooLong`] and [`ConnectionError::Type`], as soon as
    /// the header is there.
    pub fn next(&mut self) -> Result<Option<(u32, &[u8])>, ConnectionError> {
        let rest = self.bytes.get(self.start..).unwrap_or_default();
        let Some((header, rest)) = rest.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let [l0, l1, l2, l3, s0, s1, s2, s3, kind, _flags] = *header;
        let length = u32::from_be_bytes([l0, l1, l2, l3]);
        if kind != RESPONSE {
            return Err(ConnectionError::Type(kind));
        }
        let Some(size) = usize::try_from(length).ok().filter(|size| *size <= MAX_BODY) else {
            return Err(ConnectionError::TooLong(length));
        };
        let Some(body) = rest.get(..size) else {
            return Ok(None);
        };
        self.start = self.start.saturating_add(HEADER).saturating_add(size);
        Ok(Some((u32::from_be_bytes([s0, s1, s2, s3]), body)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects)]

    use super::*;

    /// An answer as it goes over the wire.
    fn response(stream: u32, body: &[u8]) -> Vec<u8> {
        let mut message = request(stream, body);
        message[8] = RESPONSE;
        message
    }

    #[test]
    fn a_request_is_laid_out_as_ttrpc_has_it() {
        assert_eq!(request(0x0102_0305, b"hi"), b"\0\0\0\x02\x01\x02\x03\x05\x01\0hi");
    }

    #[test]
    fn messages_are_found_wherever_the_pieces_end() {
        let messages: [(u32, &[u8]); 3] = [(1, b"first"), (u32::MAX, b""), (7, &[9; 3000])];
        let wire: Vec<u8> = messages
            .iter()
            .flat_map(|(stream, body)| response(*stream, body))
            .collect();
        for piece in [1, 2, 9, 10, 11, 2999, wire.len()] {
            let mut inbox = Inbox::default();
            let mut found = Vec::new();
            for piece in wire.chunks(piece) {
                inbox.push(piece);
                while let Some((stream, body)) = inbox.next().unwrap() {
                    found.push((stream, body.to_vec()));
                }
            }
            assert!(
                found
                    .iter()
                    .map(|(stream, body)| (*stream, body.as_slice()))
                    .eq(messages)
            );
        }
    }

    #[test]
    fn a_header_that_cannot_be_is_found_before_what_follows_it() {
        let header = |message: &[u8]| {
            let mut inbox = Inbox::default();
            inbox.push(message);
            inbox.next().map(|found| found.is_some())
        };
        let whole = response(1, &vec![0; MAX_BODY]);
        assert!(matches!(header(&whole), Ok(true)));
        assert!(matches!(header(&whole[..whole.len() - 1]), Ok(false)));
        assert!(matches!(
            header(b"\0\x40\0\x01\0\0\0\x01\x02\0"),
            Err(ConnectionError::TooLong(4_194_305))
        ));
        assert!(matches!(header(&[0xff; 10]), Err(ConnectionError::Type(0xff))));
        for kind in [0, 1, 3] {
            let message = [0, 0, 0, 0, 0, 0, 0, 1, kind, 0];
            assert!(matches!(header(&message), Err(ConnectionError::Type(found)) if found == kind));
        }
    }

    #[test]
    fn a_promise_takes_no_memory_and_a_long_message_leaves_none() {
        let mut inbox = Inbox::default();
        let long = response(1, &vec![0; MAX_BODY]);
        inbox.push(&long[..20]);
        assert!(inbox.next().unwrap().is_none());
        assert!(inbox.bytes.capacity() < 100);
        inbox.push(&long[20..]);
        assert!(inbox.next().unwrap().is_some());
        inbox.push(b"x");
        assert!(inbox.bytes.capacity() <= KEPT);
    }
}
