//! Rules of nf_tables that lead connections to an address of a loopback device to another port of it, in the network
//! namespace of the calling thread.
//!
//! ```text
//!  table ip koya, chain NAME (nat, output)
//!    ip daddr ADDRESS, PROTOCOL, dport PORT: dnat to ADDRESS:TO
//! ```
//!
//! Numbers and attributes are those of `linux/netfilter/nf_tables.h`. A change is a batch of messages, which the kernel
//! makes as a whole or not at all. It needs the modules `nf_tables` and `nft_nat`, and no program.

mod message;

use std::io;
use std::net::Ipv4Addr;

use message::{Message, attribute, commit, nested, number};
use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE};

/// `NFT_MSG_NEWTABLE`, `DELTABLE`, `NEWCHAIN` and `NEWRULE`.
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;

const TABLE: &[u8] = b"koya\0";

/// What a connection, or a conversation, is made by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}

/// What goes to an address of the loopback device goes to another port there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Redirect {
    /// To which address.
    pub address: Ipv4Addr,
    /// By what.
    pub protocol: Protocol,
    /// To which port; `None`: to each.
    pub port: Option<u16>,
    /// Where it goes instead.
    pub to: u16,
}

/// Adds the rules to a chain of the namespace, which is made if it is not there. Its name is at most 31 bytes.
///
/// # Errors
/// The kernel's; then there is none of them.
pub fn add(chain: &str, rules: &[Redirect]) -> io::Result<()> {
    commit(&with(chain, rules))
}

/// As [`add`], in the place of all rules that there are of these.
///
/// # Errors
/// The kernel's; then all is as it was.
pub fn replace(chain: &str, rules: &[Redirect]) -> io::Result<()> {
    commit(&[without(), with(chain, rules)].concat())
}

/// Takes all of them away. To have none is as wished.
///
/// # Errors
/// The kernel's.
pub fn remove() -> io::Result<()> {
    commit(&without())
}

/// The table with these rules.
fn with(chain: &str, rules: &[Redirect]) -> Vec<Message> {
    let chain = [chain.as_bytes(), b"\0"].concat();
    let create = NLM_F_ACK | NLM_F_CREATE;
    let mut messages = vec![
        message(NEW_TABLE, create, attribute(1, TABLE)),
        message(NEW_CHAIN, create, output(&chain)),
    ];
    for redirect in rules {
        messages.push(message(NEW_RULE, create | NLM_F_APPEND, rule(&chain, redirect)));
    }
    messages
}

/// No table.
fn without() -> Vec<Message> {
    vec![
        // One that is not there could not be deleted.
        message(NEW_TABLE, NLM_F_ACK | NLM_F_CREATE, attribute(1, TABLE)),
        message(DELETE_TABLE, NLM_F_ACK, attribute(1, TABLE)),
    ]
}

fn message(kind: u16, flags: u16, attributes: Vec<u8>) -> Message {
    Message {
        kind,
        flags,
        attributes,
    }
}

/// The chain: what the namespace's own processes send, where destinations are changed.
fn output(chain: &[u8]) -> Vec<u8> {
    /// `NF_INET_LOCAL_OUT`.
    const OUTPUT: u32 = 3;
    /// `NF_IP_PRI_NAT_DST`.
    const PRIORITY: i32 = -100;
    let hook = [number(1, OUTPUT), attribute(2, &PRIORITY.to_be_bytes())];
    [
        attribute(1, TABLE),
        attribute(3, chain),
        nested(4, &hook),
        attribute(7, b"nat\0"),
    ]
    .concat()
}

fn rule(chain: &[u8], redirect: &Redirect) -> Vec<u8> {
    /// `NFT_PAYLOAD_NETWORK_HEADER`, and where the destination is in it (RFC 791 §3.1).
    const DESTINATION: [u32; 3] = [1, 16, 4];
    /// `NFT_PAYLOAD_TRANSPORT_HEADER`, and where the destination's port is in it (RFC 768, RFC 9293 §3.1).
    const PORT: [u32; 3] = [2, 2, 2];
    let protocol = match redirect.protocol {
        Protocol::Tcp => libc::IPPROTO_TCP,
        Protocol::Udp => libc::IPPROTO_UDP,
    };
    let address = redirect.address.octets();
    let mut expressions = vec![
        payload(DESTINATION),
        equal(&address),
        protocol_number(),
        equal(&[protocol as u8]),
    ];
    if let Some(port) = redirect.port {
        expressions.extend([payload(PORT), equal(&port.to_be_bytes())]);
    }
    expressions.extend([
        immediate(FIRST, &address),
        immediate(SECOND, &redirect.to.to_be_bytes()),
        dnat(),
    ]);
    [attribute(1, TABLE), attribute(2, chain), nested(4, &expressions)].concat()
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
