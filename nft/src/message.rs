//! Messages to nf_tables: their headers, attributes and confirmations.

use std::io;

use netlink_packet_core::NLM_F_REQUEST;
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

/// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
/// `NLMSG_ERROR`.
const ERROR: u16 = 2;
/// Bytes before a message's payload.
const HEADER: usize = 16;
/// Marks an attribute that holds others.
const NESTED: u16 = 1 << 15;

/// One of a batch: what it is about (`NFT_MSG_*`), its flags and attributes.
#[derive(Clone)]
pub(crate) struct Message {
    pub kind: u16,
    pub flags: u16,
    pub attributes: Vec<u8>,
}

/// Has the kernel make all changes or none.
pub(crate) fn commit(messages: &[Message]) -> io::Result<()> {
    let edge = generic(libc::AF_UNSPEC as u8, SUBSYSTEM);
    let mut batch = message(BATCH_BEGIN, 0, 0, &edge);
    let mut number = 0_u32;
    for part in messages {
        number = number.saturating_add(1);
        let mut payload = generic(libc::AF_INET as u8, 0);
        payload.extend(&part.attributes);
        batch.extend(message(SUBSYSTEM << 8 | part.kind, part.flags, number, &payload));
    }
    batch.extend(message(BATCH_END, 0, 0, &edge));
    send(&batch, number)
}

/// Sends a batch and waits until the last of its messages is confirmed.
fn send(batch: &[u8], last: u32) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(batch, 0)?;
    loop {
        let (buffer, _) = socket.recv_from_full()?;
        let mut rest = buffer.as_slice();
        while let Some((number, error, length)) = confirmation(rest) {
            match error {
                0 if number == last => return Ok(()),
                0 => {}
                error => return Err(io::Error::from_raw_os_error(error.saturating_neg())),
            }
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

/// Which message it is about, what became of that, and its own length.
fn confirmation(bytes: &[u8]) -> Option<(u32, i32, usize)> {
    let word = |at: usize| bytes.get(at..)?.first_chunk::<4>().copied();
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let length = usize::try_from(u32::from_ne_bytes(word(0)?)).ok()?;
    let error = if kind == ERROR {
        i32::from_ne_bytes(word(HEADER)?)
    } else {
        0
    };
    let length = length.max(HEADER).checked_next_multiple_of(4)?;
    Some((u32::from_ne_bytes(word(8)?), error, length))
}

/// A netlink message (`struct nlmsghdr`).
fn message(kind: u16, flags: u16, number: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER.saturating_add(payload.len())).unwrap_or(u32::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    bytes.extend(number.to_ne_bytes());
    // From whom: the kernel knows.
    bytes.extend([0; 4]);
    bytes.extend(payload);
    padded(bytes)
}

/// `struct nfgenmsg`.
fn generic(family: u8, resource: u16) -> Vec<u8> {
    let [high, low] = resource.to_be_bytes();
    vec![family, 0, high, low]
}

pub(crate) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len().saturating_add(4)).unwrap_or(u16::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    padded(bytes)
}

pub(crate) fn nested(kind: u16, values: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | NESTED, &values.concat())
}

pub(crate) fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    let length = bytes.len().checked_next_multiple_of(4).unwrap_or(bytes.len());
    bytes.resize(length, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_to_words_and_say_their_length_without_the_padding() {
        assert_eq!(attribute(7, b"nat\0"), [8, 0, 7, 0, b'n', b'a', b't', 0]);
        assert_eq!(attribute(1, b"koya\0").len(), 12);
        assert_eq!(attribute(1, b"koya\0")[0], 9);
        assert_eq!(
            nested(4, &[number(1, 3)]),
            [12, 0, 4, 128, 8, 0, 1, 0, 0, 0, 0, 3]
        );
    }

    #[test]
    fn a_confirmation_says_of_what_it_is() {
        let mut bytes = message(ERROR, 0, 4, &(-2i32).to_ne_bytes());
        assert_eq!(confirmation(&bytes), Some((4, -2, 20)));
        bytes.truncate(18);
        assert_eq!(confirmation(&bytes), None);
    }
}
