//! The header that a connection to the stream port begins with.
//!
//! ```text
//!  0        4         5          8                       24
//!  | "KOYA" | version | 0, 0, 0  | token, 16 random bytes | the stream's bytes …
//! ```
//!
//! Nothing is answered. A connection whose header is malformed, or whose token
//! no request names within [`TOKEN_WAIT`], is closed. A token works once.

use std::fs::File;
use std::io::{self, Read, Write};
use std::time::Duration;

use thiserror::Error;

/// What a header begins with.
pub const MAGIC: [u8; 4] = *b"KOYA";
/// Version of the header.
pub const VERSION: u8 = 1;
/// Length of a token in bytes.
pub const TOKEN_LEN: usize = 16;
/// Length of a header in bytes.
pub const HEADER_LEN: usize = 24;
/// How long the agent holds a stream whose token no request has named yet.
pub const TOKEN_WAIT: Duration = Duration::from_secs(5);

/// Why some bytes are not a stream's header.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum HeaderError {
    /// It does not begin with [`MAGIC`].
    #[error("a stream begins with the bytes {MAGIC:02x?}, not with {0:02x?}")]
    Magic([u8; 4]),
    /// It is of another version.
    #[error("a stream's header has version {0}; want {VERSION}")]
    Version(u8),
    /// Bytes 5 to 7 are not zero.
    #[error("a stream's header has {0:02x?} in its three reserved bytes; want zeros")]
    Reserved([u8; 3]),
    /// A token in a message has another length.
    #[error("a stream's token has {0} bytes; want {TOKEN_LEN}")]
    TokenLength(usize),
}

/// A one-time secret that joins a stream's connection to a request.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token([u8; TOKEN_LEN]);

impl Token {
    /// A new one from the kernel's random numbers.
    ///
    /// # Errors
    /// When `/dev/urandom` cannot be read.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0; TOKEN_LEN];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// The token that a message names, or none if the field is empty.
    ///
    /// # Errors
    /// [`HeaderError::TokenLength`] for any length but 0 and [`TOKEN_LEN`].
    pub fn from_field(field: &[u8]) -> Result<Option<Self>, HeaderError> {
        if field.is_empty() {
            return Ok(None);
        }
        match field.try_into() {
            Ok(bytes) => Ok(Some(Self(bytes))),
            Err(_) => Err(HeaderError::TokenLength(field.len())),
        }
    }

    /// Its bytes, for a message's field.
    #[must_use]
    pub fn to_field(self) -> Vec<u8> {
        self.0.to_vec()
    }
}

impl std::fmt::Debug for Token {
    /// A secret: it does not belong into logs.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Token(…)")
    }
}

/// The header for a token.
#[must_use]
pub fn encode(token: Token) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    let (magic, rest) = header.split_at_mut(MAGIC.len());
    magic.copy_from_slice(&MAGIC);
    if let Some(version) = rest.first_mut() {
        *version = VERSION;
    }
    if let Some(tail) = rest.last_chunk_mut() {
        *tail = token.0;
    }
    header
}

/// The token in a header.
///
/// # Errors
/// Anything but a header of this version is refused.
pub fn decode(header: &[u8; HEADER_LEN]) -> Result<Token, HeaderError> {
    let [m0, m1, m2, m3, version, r0, r1, r2, token @ ..] = *header;
    if [m0, m1, m2, m3] != MAGIC {
        return Err(HeaderError::Magic([m0, m1, m2, m3]));
    }
    if version != VERSION {
        return Err(HeaderError::Version(version));
    }
    if [r0, r1, r2] != [0; 3] {
        return Err(HeaderError::Reserved([r0, r1, r2]));
    }
    Ok(Token(token))
}

/// Begins a stream on a connection to the stream port; its bytes follow.
///
/// # Errors
/// When the connection cannot be written to.
pub fn open(mut connection: impl Write, token: Token) -> io::Result<()> {
    connection.write_all(&encode(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_carries_its_token() {
        let token = Token::random().unwrap();
        let header = encode(token);
        assert_eq!(&header[..8], b"KOYA\x01\0\0\0");
        assert_eq!(decode(&header), Ok(token));
        assert_eq!(Token::from_field(&header[8..]), Ok(Some(token)));
    }

    #[test]
    fn tokens_differ() {
        assert_ne!(Token::random().unwrap(), Token::random().unwrap());
    }

    #[test]
    fn other_headers_are_refused() {
        let good = encode(Token::random().unwrap());
        let with = |index: usize, value: u8| {
            let mut header = good;
            header[index] = value;
            decode(&header)
        };
        assert_eq!(with(0, b'G'), Err(HeaderError::Magic(*b"GOYA")));
        assert_eq!(with(4, 2), Err(HeaderError::Version(2)));
        assert_eq!(with(6, 7), Err(HeaderError::Reserved([0, 7, 0])));
    }

    #[test]
    fn a_field_is_empty_or_a_whole_token() {
        assert_eq!(Token::from_field(b""), Ok(None));
        assert_eq!(Token::from_field(&[1; 15]), Err(HeaderError::TokenLength(15)));
        assert_eq!(Token::from_field(&[1; 17]), Err(HeaderError::TokenLength(17)));
        let token = Token::from_field(&[1; 16]).unwrap().unwrap();
        assert_eq!(token.to_field(), [1; 16]);
        assert!(!format!("{token:?}").contains('1'));
    }
}
