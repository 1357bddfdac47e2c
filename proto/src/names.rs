//! What a stream of `ServeNames` carries: questions to a name server one way, answers the other.
//!
//! ```text
//!  0      4           5   6        8
//!  | tag  | transport | 0 | length | a DNS message (RFC 1035 §4) …
//! ```
//!
//! Numbers are big-endian. Whoever asks chooses the tag; an answer has that of its question. A question that nobody
//! answers has no answer: whoever asked asks again.

use std::io::{self, Read};

/// Length of what stands before a message, in bytes.
pub const HEADER_LEN: usize = 8;

/// How a question was asked: a name server answers the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A datagram: what is too long for one is cut.
    Udp = 0,
    /// A connection.
    Tcp = 1,
}

/// A question or an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// Which question it is.
    pub tag: u32,
    /// How it was asked.
    pub transport: Transport,
    /// As it is in a datagram, at most 65,535 bytes.
    pub message: Vec<u8>,
}

impl Name {
    /// As it is on the stream.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for a message that is too long.
    pub fn encode(&self) -> io::Result<Vec<u8>> {
        let length = u16::try_from(self.message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut bytes = self.tag.to_be_bytes().to_vec();
        bytes.extend([self.transport as u8, 0]);
        bytes.extend(length.to_be_bytes());
        bytes.extend(&self.message);
        Ok(bytes)
    }

    /// Reads the next one; `None` at the end of the stream.
    ///
    /// # Errors
    /// Those of reading; [`io::ErrorKind::InvalidData`] for what is none.
    pub fn read(mut stream: impl Read) -> io::Result<Option<Self>> {
        let mut header = [0; HEADER_LEN];
        match stream.read_exact(&mut header) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            outcome => outcome?,
        }
        let [a, b, c, d, transport, reserved, high, low] = header;
        let transport = match (transport, reserved) {
            (0, 0) => Transport::Udp,
            (1, 0) => Transport::Tcp,
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
        let mut message = vec![0; u16::from_be_bytes([high, low]).into()];
        stream.read_exact(&mut message)?;
        Ok(Some(Self {
            tag: u32::from_be_bytes([a, b, c, d]),
            transport,
            message,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_one_after_another() {
        let names = [(7, Transport::Udp, 0), (u32::MAX, Transport::Tcp, 65_535)];
        let names = names.map(|(tag, transport, length)| Name {
            tag,
            transport,
            message: vec![tag as u8; length],
        });
        let bytes: Vec<u8> = names.iter().flat_map(|name| name.encode().unwrap()).collect();
        let mut stream = bytes.as_slice();
        for name in names {
            assert_eq!(Name::read(&mut stream).unwrap(), Some(name));
        }
        assert_eq!(Name::read(&mut stream).unwrap(), None);
    }

    #[test]
    fn what_is_no_message_of_this_kind_is_an_error() {
        let long = Name {
            tag: 0,
            transport: Transport::Udp,
            message: vec![0; 65_536],
        };
        assert_eq!(long.encode().unwrap_err().kind(), io::ErrorKind::InvalidInput);
        let read = |bytes: &[u8]| Name::read(bytes).unwrap_err().kind();
        assert_eq!(read(&[0, 0, 0, 1, 2, 0, 0, 0]), io::ErrorKind::InvalidData);
        assert_eq!(read(&[0, 0, 0, 1, 0, 1, 0, 0]), io::ErrorKind::InvalidData);
        assert_eq!(read(&[0, 0, 0, 1, 0, 0, 0, 2, 9]), io::ErrorKind::UnexpectedEof);
    }
}
