//! Programs of the namespace itself, which reach the guest as their neighbour: an engine that forwards ports for an ordinary
//! user connects from there to the container's address.
//!
//! ```text
//!   namespace │ 169.254.75.1 at tap0 ◄──► the guest's address │ koya-vmm │
//! ```
//!
//! The address stays at its interface, where whoever made the namespace finds it; but it is no longer the namespace's own.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::device::Device;
use super::{Interface, Neighbour, Route, TakeoverError, redirect};
use crate::network::address::Cidr;
use crate::network::netlink::{Add, Netlink};

/// Bits of an address alone.
const ALONE: u8 = 32;

/// Lets programs of this namespace reach the IPv4 addresses of `interface`, which the guest has taken over from `device`; the
/// guest is to be told how to answer. `number` is the interface's: each has a neighbour of its own.
pub(super) fn let_in(
    netlink: &Netlink,
    number: usize,
    device: &Device,
    tap: &Device,
    interface: &Interface,
) -> Result<Option<(Route, Neighbour)>, TakeoverError> {
    let Some((own, alone)) = neighbour(number) else {
        return Ok(None);
    };
    redirect::except(netlink, tap, own)?;
    let failed = |act| failed_at(tap, act);
    // What the guest sends comes from an address that an interface of this namespace still has.
    let switch = format!("/proc/sys/net/ipv4/conf/{}/accept_local", tap.name);
    fs::write(switch, "1").map_err(failed("set accept_local"))?;
    netlink
        .request(RouteNetlinkMessage::NewAddress(address(tap, own)), Add::Over)
        .map_err(failed("set the address"))?;
    lead(netlink, number, device, tap, interface)?;
    let route = Route {
        destination: alone,
        gateway: None,
        interface: interface.name.clone(),
        source: None,
        metric: 0,
    };
    let neighbour = Neighbour {
        address: own.into(),
        mac: tap.mac,
        interface: interface.name.clone(),
    };
    Ok(Some((route, neighbour)))
}

/// Leads programs of this namespace to the addresses that the interface has now.
pub(super) fn lead(
    netlink: &Netlink,
    number: usize,
    device: &Device,
    tap: &Device,
    interface: &Interface,
) -> Result<(), TakeoverError> {
    let Some((own, _)) = neighbour(number) else {
        return Ok(());
    };
    let failed = |act| failed_at(tap, act);
    for guest in interface.addresses.iter().map(|cidr| cidr.address()) {
        let IpAddr::V4(guest) = guest else { continue };
        let message = RouteNetlinkMessage::NewNeighbour(known(tap, guest, interface));
        netlink
            .request(message, Add::Over)
            .map_err(failed("set the neighbour"))?;
        give_up(netlink, device, guest)?;
        let message = RouteNetlinkMessage::NewRoute(way(tap, guest, own));
        netlink
            .request(message, Add::Over)
            .map_err(failed("set the route"))?;
    }
    Ok(())
}

fn failed_at(tap: &Device, act: &'static str) -> impl FnOnce(io::Error) -> TakeoverError {
    let name = tap.name.clone();
    move |source| TakeoverError::Change { act, name, source }
}

/// Of the link (RFC 3927), where it is nobody else's: no host has more than one namespace on such a link.
fn neighbour(number: usize) -> Option<(Ipv4Addr, Cidr)> {
    let number = u8::try_from(number).ok()?.checked_add(1)?;
    let address = Ipv4Addr::new(169, 254, 75, number);
    Some((address, Cidr::new(address.into(), ALONE)?))
}

fn address(tap: &Device, own: Ipv4Addr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = ALONE;
    message.header.scope = AddressScope::Link;
    message.header.index = tap.index;
    message.attributes = vec![
        AddressAttribute::Local(own.into()),
        AddressAttribute::Address(own.into()),
    ];
    message
}

fn known(tap: &Device, guest: Ipv4Addr, interface: &Interface) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = tap.index;
    message.header.state = NeighbourState::Permanent;
    message.attributes = vec![
        NeighbourAttribute::Destination(guest.into()),
        NeighbourAttribute::LinkLayerAddress(interface.mac.bytes().to_vec()),
    ];
    message
}

/// Makes an address one of others. One that is so already is as wished.
fn give_up(netlink: &Netlink, device: &Device, guest: Ipv4Addr) -> Result<(), TakeoverError> {
    let mut message = route(guest);
    message.header.table = libc::RT_TABLE_LOCAL;
    message.header.kind = RouteType::Local;
    message.header.scope = RouteScope::Host;
    message.attributes.push(RouteAttribute::Oif(device.index));
    match netlink.request(RouteNetlinkMessage::DelRoute(message), Add::Change) {
        Err(error) if error.raw_os_error() != Some(libc::ESRCH) => Err(failed(device, error)),
        _ => Ok(()),
    }
}

fn failed(device: &Device, source: io::Error) -> TakeoverError {
    TakeoverError::Change {
        act: "give up the address",
        name: device.name.clone(),
        source,
    }
}

fn way(tap: &Device, guest: Ipv4Addr, own: Ipv4Addr) -> RouteMessage {
    let mut message = route(guest);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.kind = RouteType::Unicast;
    message.header.scope = RouteScope::Link;
    message.attributes.push(RouteAttribute::Oif(tap.index));
    message.attributes.push(RouteAttribute::PrefSource(own.into()));
    message
}

fn route(guest: Ipv4Addr) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = ALONE;
    message.attributes = vec![RouteAttribute::Destination(guest.into())];
    message
}
