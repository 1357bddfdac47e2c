//! What a guest has to be told about interfaces: read from the kernel, before anything is changed.

use std::net::IpAddr;

use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteNextHop, RouteProtocol, RouteType,
};

use super::device::Device;
use super::{Interface, Neighbour, Route, Taken, TakeoverError};
use crate::network::address::{Cidr, Mac};
use crate::network::netlink::Netlink;

/// An interface with what the guest calls it, and its tap.
type Ours = (String, String, Device);

/// What belongs to `ours`.
pub(super) fn taken(netlink: &Netlink, ours: &[Ours]) -> Result<Taken, TakeoverError> {
    let failed = |what| move |source| TakeoverError::List { what, source };
    let addresses = netlink.addresses().map_err(failed("addresses"))?;
    let routes = netlink.routes().map_err(failed("routes"))?;
    let neighbours = netlink.neighbours().map_err(failed("neighbours"))?;
    let interface = |(name, tap, device): &Ours| Interface {
        tap: tap.clone(),
        mac: device.mac,
        name: name.clone(),
        mtu: device.mtu,
        addresses: addresses
            .iter()
            .filter(|message| message.header.index == device.index)
            .filter_map(address)
            .collect(),
    };
    let name = |index: u32| {
        let found = ours.iter().find(|(_, _, device)| device.index == index);
        found.map(|(name, _, _)| name.clone())
    };
    Ok(Taken {
        interfaces: ours.iter().map(interface).collect(),
        routes: sorted(routes.iter().flat_map(|message| ways(message, &name)).collect()),
        neighbours: neighbours
            .iter()
            .filter_map(|message| neighbour(message, &name))
            .collect(),
    })
}

fn address(message: &AddressMessage) -> Option<Cidr> {
    if message.header.scope == AddressScope::Link {
        return None;
    }
    let (mut local, mut other) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => other = Some(*address),
            _ => {}
        }
    }
    // On a line between two, the second is the far end's.
    Cidr::new(local.or(other)?, message.header.prefix_len)
}

/// The routes of a message. Of several ways to one place the kernel makes one route with several hops, for IPv6.
fn ways(message: &RouteMessage, name: &impl Fn(u32) -> Option<String>) -> Vec<Route> {
    let hops = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::MultiPath(hops) => Some(hops),
        _ => None,
    });
    let Some(hops) = hops else {
        return route(message, name).into_iter().collect();
    };
    let one = |hop: &RouteNextHop| {
        let mut message = message.clone();
        message.attributes.extend(hop.attributes.iter().cloned());
        message.attributes.push(RouteAttribute::Oif(hop.interface_index));
        route(&message, name)
    };
    hops.iter().filter_map(one).collect()
}

fn route(message: &RouteMessage, name: &impl Fn(u32) -> Option<String>) -> Option<Route> {
    let header = &message.header;
    // The kernel makes its own from the addresses.
    let wanted = header.kind == RouteType::Unicast
        && header.table == RouteHeader::RT_TABLE_MAIN
        && header.protocol != RouteProtocol::Kernel;
    if !wanted {
        return None;
    }
    let (mut destination, mut gateway, mut source, mut interface, mut metric) = (None, None, None, None, 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Oif(index) => interface = name(*index),
            RouteAttribute::Priority(priority) => metric = *priority,
            _ => {}
        }
    }
    let any: IpAddr = match header.address_family {
        netlink_packet_route::AddressFamily::Inet => std::net::Ipv4Addr::UNSPECIFIED.into(),
        netlink_packet_route::AddressFamily::Inet6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    Some(Route {
        destination: Cidr::new(destination.unwrap_or(any), header.destination_prefix_length)?,
        gateway,
        interface: interface?,
        source,
        metric,
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

/// Those on the link before those whose gateways they lead to.
fn sorted(mut routes: Vec<Route>) -> Vec<Route> {
    routes.sort_by_key(|route| {
        (
            route.gateway.is_some(),
            u8::MAX.saturating_sub(route.destination.prefix()),
        )
    });
    routes
}

fn neighbour(message: &NeighbourMessage, name: &impl Fn(u32) -> Option<String>) -> Option<Neighbour> {
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => address = Some(IpAddr::from(*ip)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => address = Some(IpAddr::from(*ip)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = <[u8; 6]>::try_from(bytes.as_slice()).ok(),
            _ => {}
        }
    }
    Some(Neighbour {
        address: address?,
        mac: Mac::new(mac?),
        interface: name(message.header.ifindex)?,
    })
}
