//! Whatever arrives at one interface leaves by another: an ingress queueing discipline, a filter that takes everything,
//! and the action `mirred` (tc-mirred(8)).

use std::fs;
use std::io;
use std::net::Ipv4Addr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionGeneric, TcActionMirror, TcActionMirrorOption, TcActionOption,
    TcActionType, TcAttribute, TcFilterU32, TcFilterU32Option, TcHandle, TcHeader, TcMessage, TcMirror,
    TcMirrorActionType, TcOption, TcU32Key, TcU32Selector, TcU32SelectorFlags,
};

use super::TakeoverError;
use super::device::Device;
use crate::network::netlink::{Add, Netlink};

/// Handle of the ingress discipline, `ffff:`.
const HANDLE: TcHandle = TcHandle {
    major: u16::MAX,
    minor: 0,
};
/// Priority of the filter that takes everything; those of [`keep_answers`] come before.
const PRIORITY: u32 = 8;
/// Of the filter that copies what is said of addresses.
const ADDRESSES: u32 = 1;
/// Of the filters that keep answers of name servers.
const ANSWERS: u32 = 2;
/// Of the filter that keeps what is for an address.
const EXCEPT: u32 = 3;
/// Where an IPv4 header has its destination, in bytes.
const DESTINATION: i32 = 16;
/// Port of name servers.
const DNS: u32 = 53;
/// Ports of the namespace's own that answers come back to: from 61440 on. Linux begins with 32768 to 60999 in every
/// namespace, the guest's included.
const OWN_PORTS: u32 = 0xf000;
/// The same as `net.ipv4.ip_local_port_range` says it.
const OWN_PORT_RANGE: &str = "61440 65535";

/// Sends what arrives at `from` out of `to`.
pub(super) fn add(netlink: &Netlink, from: &Device, to: &Device) -> Result<(), TakeoverError> {
    let failed = |source| TakeoverError::Redirect {
        from: from.name.clone(),
        to: to.name.clone(),
        source,
    };
    let discipline = RouteNetlinkMessage::NewQueueDiscipline(discipline(from).map_err(failed)?);
    netlink.request(discipline, Add::New).map_err(failed)?;
    let everything = filter(
        from,
        (PRIORITY, libc::ETH_P_ALL),
        vec![TcU32Key::default()],
        Some(action(to, TcMirrorActionType::EgressRedir, TcActionType::Stolen)),
    );
    let filter = RouteNetlinkMessage::NewTrafficFilter(everything.map_err(failed)?);
    netlink.request(filter, Add::New).map_err(failed)
}

/// Lets what arrives at `from` for this address go its usual way all the same.
pub(super) fn except(netlink: &Netlink, from: &Device, address: Ipv4Addr) -> Result<(), TakeoverError> {
    let failed = |source| TakeoverError::Change {
        act: "change the redirection",
        name: from.name.clone(),
        source,
    };
    let keys = vec![key(DESTINATION, u32::MAX, address.to_bits())];
    let one = filter(from, (EXCEPT, libc::ETH_P_IP), keys, None);
    let filter = RouteNetlinkMessage::NewTrafficFilter(one.map_err(failed)?);
    netlink.request(filter, Add::New).map_err(failed)
}

/// Lets the namespace itself have what name servers answer to a port of its own, and what is said of addresses (ARP).
/// Datagrams and ARP go to `to` as well. To be called after [`add`].
pub(super) fn keep_answers(netlink: &Netlink, from: &Device, to: &Device) -> Result<(), TakeoverError> {
    let failed = |source| TakeoverError::Redirect {
        from: from.name.clone(),
        to: to.name.clone(),
        source,
    };
    let copy = action(to, TcMirrorActionType::EgressMirror, TcActionType::Ok);
    let mut filters = vec![filter(
        from,
        (ADDRESSES, libc::ETH_P_ARP),
        vec![TcU32Key::default()],
        Some(copy),
    )];
    // Programs of a guest that choose ports themselves, as name servers do, may choose one of these: datagrams go to both.
    // Ports of connections are the kernel's to choose.
    let copy = action(to, TcMirrorActionType::EgressMirror, TcActionType::Ok);
    for (protocol, action) in [(libc::IPPROTO_UDP, Some(copy)), (libc::IPPROTO_TCP, None)] {
        // A header of 20 bytes, as all but very few have; the protocol (RFC 791 §3.1); then both ports.
        let keys = vec![
            key(0, 0xff00_0000, 0x4500_0000),
            key(8, 0x00ff_0000, protocol.cast_unsigned() << 16),
            key(20, 0xffff_0000 | OWN_PORTS, DNS << 16 | OWN_PORTS),
        ];
        filters.push(filter(from, (ANSWERS, libc::ETH_P_IP), keys, action));
    }
    for filter in filters {
        let filter = RouteNetlinkMessage::NewTrafficFilter(filter.map_err(failed)?);
        netlink.request(filter, Add::New).map_err(failed)?;
    }
    Ok(())
}

/// Has this thread's namespace choose from the ports whose answers are its own.
pub(super) fn choose_own_ports() -> Result<(), TakeoverError> {
    let range = "/proc/sys/net/ipv4/ip_local_port_range";
    fs::write(range, OWN_PORT_RANGE).map_err(|source| TakeoverError::Ports { source })
}

/// Looks at four bytes of a packet.
fn key(offset: i32, mask: u32, value: u32) -> TcU32Key {
    let mut key = TcU32Key::default();
    (key.off, key.mask, key.val) = (offset, mask.to_be(), value.to_be());
    key
}

/// Lets what arrives at `from` go its usual way. Nothing to remove is as wished.
pub(super) fn remove(netlink: &Netlink, from: &Device) -> Result<(), TakeoverError> {
    let failed = |source| TakeoverError::Change {
        act: "remove the redirection",
        name: from.name.clone(),
        source,
    };
    let discipline = RouteNetlinkMessage::DelQueueDiscipline(discipline(from).map_err(failed)?);
    match netlink.request(discipline, Add::Change) {
        // With the interface itself, its discipline has gone.
        Err(error)
            if !matches!(
                error.raw_os_error(),
                Some(libc::EINVAL | libc::ENOENT | libc::ENODEV)
            ) =>
        {
            Err(failed(error))
        }
        _ => Ok(()),
    }
}

fn header(device: &Device) -> io::Result<TcHeader> {
    let index = i32::try_from(device.index).map_err(io::Error::other)?;
    Ok(TcHeader {
        index,
        ..Default::default()
    })
}

fn discipline(device: &Device) -> io::Result<TcMessage> {
    let header = TcHeader {
        handle: HANDLE,
        parent: TcHandle::INGRESS,
        ..header(device)?
    };
    let kind = TcAttribute::Kind("ingress".to_owned());
    Ok(TcMessage::from_parts(header, vec![kind]))
}

/// What is done with packets of a protocol that have all of these keys; without an action they go their usual way. A key
/// that masks everything away fits all. cls_matchall would say that more simply; cls_u32 is in more kernels.
fn filter(
    from: &Device,
    (priority, protocol): (u32, libc::c_int),
    keys: Vec<TcU32Key>,
    action: Option<TcAction>,
) -> io::Result<TcMessage> {
    let protocol = u16::try_from(protocol).map_err(io::Error::other)?;
    let header = TcHeader {
        parent: HANDLE,
        // As it is on the wire.
        info: priority << 16 | u32::from(protocol.to_be()),
        ..header(from)?
    };
    let mut selector = TcU32Selector::default();
    selector.flags = TcU32SelectorFlags::Terminal;
    selector.nkeys = u8::try_from(keys.len()).map_err(io::Error::other)?;
    selector.keys = keys;
    let mut options = vec![TcOption::U32(TcFilterU32Option::Selector(selector))];
    options.extend(action.map(|action| TcOption::U32(TcFilterU32Option::Action(vec![action]))));
    let attributes = vec![
        TcAttribute::Kind(TcFilterU32::KIND.to_owned()),
        TcAttribute::Options(options),
    ];
    Ok(TcMessage::from_parts(header, attributes))
}

fn action(to: &Device, kind: TcMirrorActionType, verdict: TcActionType) -> TcAction {
    let mut generic = TcActionGeneric::default();
    generic.action = verdict;
    let mut mirror = TcMirror::default();
    mirror.generic = generic;
    mirror.eaction = kind;
    mirror.ifindex = to.index;
    let mut action = TcAction::default();
    action.attributes = vec![
        TcActionAttribute::Kind(TcActionMirror::KIND.to_owned()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror))]),
    ];
    action
}
