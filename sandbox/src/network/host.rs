//! What the host's own network says about addresses and names.

use std::net::IpAddr;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::LinkAttribute;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType};
use rustix::process::geteuid;

use super::NetworkError;
use super::address::Cidr;
use super::netlink::Netlink;

/// Networks that lead somewhere already; a default route is none.
pub(super) fn networks() -> Result<Vec<Cidr>, NetworkError> {
    let routes = Netlink::open().and_then(|netlink| netlink.routes());
    let routes = routes.map_err(|source| NetworkError::List {
        what: "routes",
        source,
    })?;
    Ok(routes.iter().filter_map(destination).collect())
}

fn destination(route: &RouteMessage) -> Option<Cidr> {
    let header = &route.header;
    let wanted = header.kind == RouteType::Unicast
        && header.table == RouteHeader::RT_TABLE_MAIN
        && header.destination_prefix_length > 0
        && matches!(header.address_family, AddressFamily::Inet | AddressFamily::Inet6);
    let address = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::from(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::from(*address)),
        _ => None,
    })?;
    Cidr::new(address, header.destination_prefix_length).filter(|_| wanted)
}

/// Names of its interfaces.
pub(super) fn interfaces() -> Result<Vec<String>, NetworkError> {
    let links = Netlink::open().and_then(|netlink| netlink.links());
    let links = links.map_err(|source| NetworkError::List {
        what: "interfaces",
        source,
    })?;
    let names = links.into_iter().flat_map(|link| link.attributes);
    Ok(names
        .filter_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name),
            _ => None,
        })
        .collect())
}

/// Whether networks may be made at all.
pub(super) fn is_root() -> bool {
    geteuid().is_root()
}
