//! A rule of nf_tables for port 53 of an address, in the network namespace of the calling thread.
//!
//! ```text
//!  table ip koya, chain names (nat, output)
//!    ip daddr ADDRESS, udp dport 53: dnat to ADDRESS:PORT
//!    ip daddr ADDRESS, tcp dport 53: dnat to ADDRESS:PORT
//! ```
//!
//! Numbers and attributes are those of `linux/netfilter/nf_tables.h`. A change is a batch of messages, which the kernel
//! makes as a whole or not at all.

use std::io;
use std::net::Ipv4Addr;

use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

/// Where questions are to go.
pub(super) struct Ports {
    pub udp: u16,
    pub tcp: u16,
}

const DNS: u16 = 53;
const TABLE: &[u8] = b"koya\0";
const CHAIN: &[u8] = b"names\0";

/// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const NEW_CHAIN: u16 = SUBSYSTEM << 8 | 3;
const NEW_RULE: u16 = SUBSYSTEM << 8 | 6;
/// `NLMSG_ERROR`.
const ERROR: u16 = 2;
/// Bytes before a message's payload.
const HEADER: usize = 16;
/// Marks an attribute that holds others.
const NESTED: u16 = 1 << 15;

/// Adds the rules.
pub(super) fn add(address: Ipv4Addr, ports: Ports) -> io::Result<()> {
    let create = NLM_F_ACK | NLM_F_CREATE;
    let messages = [
        (NEW_TABLE, create, attribute(1, TABLE)),
        (NEW_CHAIN, create, chain()),
        (
            NEW_RULE,
            create | NLM_F_APPEND,
            rule(address, libc::IPPROTO_UDP as u8, ports.udp),
        ),
        (
            NEW_RULE,
            create | NLM_F_APPEND,
            rule(address, libc::IPPROTO_TCP as u8, ports.tcp),
        ),
    ];
    let mut batch = message(BATCH_BEGIN, 0, 0, &generic(libc::AF_UNSPEC as u8, SUBSYSTEM));
    let mut number = 0u32;
    for (kind, flags, attributes) in messages {
        number = number.saturating_add(1);
        let mut payload = generic(libc::AF_INET as u8, 0);
        payload.extend(attributes);
        batch.extend(message(kind, flags, number, &payload));
    }
    batch.extend(message(
        BATCH_END,
        0,
        0,
        &generic(libc::AF_UNSPEC as u8, SUBSYSTEM),
    ));
    commit(&batch, number)
}

/// Sends a batch and waits until the last of its messages is confirmed.
fn commit(batch: &[u8], last: u32) -> io::Result<()> {
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

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len().saturating_add(4)).unwrap_or(u16::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    padded(bytes)
}

fn nested(kind: u16, values: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | NESTED, &values.concat())
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    let length = bytes.len().checked_next_multiple_of(4).unwrap_or(bytes.len());
    bytes.resize(length, 0);
    bytes
}

/// The chain: what the namespace's own processes send, where destinations are changed.
fn chain() -> Vec<u8> {
    /// `NF_INET_LOCAL_OUT`.
    const OUTPUT: u32 = 3;
    /// `NF_IP_PRI_NAT_DST`.
    const PRIORITY: i32 = -100;
    let hook = [number(1, OUTPUT), attribute(2, &PRIORITY.to_be_bytes())];
    [
        attribute(1, TABLE),
        attribute(3, CHAIN),
        nested(4, &hook),
        attribute(7, b"nat\0"),
    ]
    .concat()
}

/// What goes to port 53 of the address by `protocol` goes to `port` of it.
fn rule(address: Ipv4Addr, protocol: u8, port: u16) -> Vec<u8> {
    /// `NFT_PAYLOAD_NETWORK_HEADER`, and where the destination is in it (RFC 791 §3.1).
    const DESTINATION: [u32; 3] = [1, 16, 4];
    /// `NFT_PAYLOAD_TRANSPORT_HEADER`, and where the destination's port is in it (RFC 768, RFC 9293 §3.1).
    const PORT: [u32; 3] = [2, 2, 2];
    let expressions = [
        payload(DESTINATION),
        equal(&address.octets()),
        protocol_number(),
        equal(&[protocol]),
        payload(PORT),
        equal(&DNS.to_be_bytes()),
        immediate(FIRST, &address.octets()),
        immediate(SECOND, &port.to_be_bytes()),
        dnat(),
    ];
    [attribute(1, TABLE), attribute(2, CHAIN), nested(4, &expressions)].concat()
}

/// `NFT_REG_1` and `NFT_REG_2`.
const FIRST: u32 = 1;
const SECOND: u32 = 2;

fn expression(name: &[u8], values: &[Vec<u8>]) -> Vec<u8> {
    nested(1, &[attribute(1, name), nested(2, values)])
}

/// Loads part of a packet.
fn payload([base, offset, length]: [u32; 3]) -> Vec<u8> {
    let values = [
        number(1, FIRST),
        number(2, base),
        number(3, offset),
        number(4, length),
    ];
    expression(b"payload\0", &values)
}

/// Loads the number of its protocol.
fn protocol_number() -> Vec<u8> {
    /// `NFT_META_L4PROTO`.
    const PROTOCOL: u32 = 16;
    expression(b"meta\0", &[number(1, FIRST), number(2, PROTOCOL)])
}

/// Goes on only if what was loaded is this.
fn equal(value: &[u8]) -> Vec<u8> {
    /// `NFT_CMP_EQ`.
    const EQUAL: u32 = 0;
    let values = [
        number(1, FIRST),
        number(2, EQUAL),
        nested(3, &[attribute(1, value)]),
    ];
    expression(b"cmp\0", &values)
}

fn immediate(register: u32, value: &[u8]) -> Vec<u8> {
    let values = [number(1, register), nested(2, &[attribute(1, value)])];
    expression(b"immediate\0", &values)
}

/// Changes the destination to what the two registers hold.
fn dnat() -> Vec<u8> {
    /// `NFT_NAT_DNAT`.
    const DESTINATION: u32 = 1;
    let values = [
        number(1, DESTINATION),
        number(2, libc::AF_INET.cast_unsigned()),
        number(3, FIRST),
        number(5, SECOND),
    ];
    expression(b"nat\0", &values)
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
