//! Does what a plan says, in the namespace of the calling thread.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;

use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::netlink::Netlink;
use super::plan::{Interface, Mac, Neighbour, Plan, Route};
use crate::error::{Result, exists, invalid, runtime};

/// What a device is called on its way: the kernel puts a free number in.
const ON_THE_WAY: &str = "koya%d";

fn open() -> Result<Netlink> {
    Netlink::open().map_err(runtime("open a netlink socket"))
}

/// Whether the device is here.
pub fn is_here(interface: &Interface) -> Result<bool> {
    let found = open()?.find_mac(interface.mac);
    let found = found.map_err(runtime("list the network devices"))?;
    Ok(found.is_some())
}

/// Sends the device to another namespace; false if it is not here.
pub fn send(mac: Mac, to: &File) -> Result<bool> {
    let netlink = open()?;
    let found = netlink.find_mac(mac);
    let Some(index) = found.map_err(runtime("list the network devices"))? else {
        return Ok(false);
    };
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.change_mask = LinkFlags::Up;
    message.attributes = vec![
        LinkAttribute::IfName(ON_THE_WAY.to_owned()),
        LinkAttribute::NetNsFd(to.as_raw_fd()),
    ];
    netlink
        .change(RouteNetlinkMessage::SetLink(message))
        .map_err(runtime(format!("move the device {mac}")))?;
    Ok(true)
}

/// Sets everything up; the devices are here.
pub fn set_up(plan: &Plan) -> Result<()> {
    let netlink = open()?;
    if let Some(index) = index_of(&netlink, "lo")? {
        change_link(&netlink, index, LinkFlags::Up, None).map_err(runtime("start the loopback device"))?;
    }
    for interface in &plan.interfaces {
        start(&netlink, interface)?;
    }
    add_routes(&netlink, &plan.routes)?;
    for neighbour in &plan.neighbours {
        let message = neighbour_message(&netlink, neighbour)?;
        netlink
            .change(RouteNetlinkMessage::NewNeighbour(message))
            .map_err(runtime(format!("add the neighbour {}", neighbour.address)))?;
    }
    Ok(())
}

/// Takes routes away. One whose device has gone went with it.
pub fn remove_routes(routes: &[Route]) -> Result<()> {
    let netlink = open()?;
    for route in routes {
        let here = match &route.interface {
            Some(name) => index_of(&netlink, name)?.is_some(),
            None => true,
        };
        if !here {
            continue;
        }
        let (address, prefix) = route.destination;
        let message = RouteNetlinkMessage::DelRoute(route_message(&netlink, route)?);
        match netlink.change(message) {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                return Err(runtime(format!("remove the route to {address}/{prefix}"))(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The first of several ways to the same place, at the same cost, is the one that is taken; the others are kept behind it, as
/// the host has them, and do not replace it.
fn add_routes(netlink: &Netlink, routes: &[Route]) -> Result<()> {
    let mut added = HashSet::new();
    for route in routes {
        let (address, prefix) = route.destination;
        let message = RouteNetlinkMessage::NewRoute(route_message(netlink, route)?);
        let outcome = match added.insert((route.destination, route.metric)) {
            true => netlink.change(message),
            false => netlink.append(message),
        };
        outcome.map_err(runtime(format!("add the route to {address}/{prefix}")))?;
    }
    Ok(())
}

fn index_of(netlink: &Netlink, name: &str) -> Result<Option<u32>> {
    let found = netlink.find_name(name);
    found.map_err(runtime("list the network devices"))
}

fn change_link(
    netlink: &Netlink,
    index: u32,
    flags: LinkFlags,
    attribute: Option<LinkAttribute>,
) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = flags;
    message.header.change_mask = LinkFlags::Up;
    message.attributes.extend(attribute);
    netlink.change(RouteNetlinkMessage::SetLink(message))
}

/// Names a device, gives it its addresses and starts it.
fn start(netlink: &Netlink, interface: &Interface) -> Result<()> {
    let name = &interface.name;
    let found = netlink.find_mac(interface.mac);
    let Some(index) = found.map_err(runtime("list the network devices"))? else {
        return Err(runtime(format!("find the device {}", interface.mac))(
            io::Error::from_raw_os_error(libc::ENODEV),
        ));
    };
    let set = |flags, attribute, act| {
        let outcome = change_link(netlink, index, flags, attribute);
        outcome.map_err(runtime(format!("{act} the network device {name}")))
    };
    let down = LinkFlags::empty();
    match index_of(netlink, name)? {
        Some(other) if other == index => set(down, None, "stop")?,
        Some(_) => {
            return Err(exists(format!(
                "the container has a network device {name} already"
            )));
        }
        None => set(down, Some(LinkAttribute::IfName(name.clone())), "name")?,
    }
    if let Some(mtu) = interface.mtu {
        set(down, Some(LinkAttribute::Mtu(mtu)), "set the MTU of")?;
    }
    if interface.addresses.iter().any(|(address, _)| address.is_ipv6()) {
        // An engine may have turned it off for all, and on for the interfaces that it gives such an address.
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "0");
    }
    for &(address, prefix) in &interface.addresses {
        netlink
            .change(RouteNetlinkMessage::NewAddress(address_message(
                index, address, prefix,
            )))
            .map_err(runtime(format!("give {name} the address {address}/{prefix}")))?;
    }
    // Whoever had one of the addresses before may be remembered with another MAC: the kernel is to tell everybody.
    for (family, switch) in [("ipv4", "arp_notify"), ("ipv6", "ndisc_notify")] {
        let _ = fs::write(format!("/proc/sys/net/{family}/conf/{name}/{switch}"), "1");
    }
    set(LinkFlags::Up, None, "start")
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}

fn address_message(index: u32, address: IpAddr, prefix: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = prefix;
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
    ];
    match address {
        IpAddr::V4(address) if prefix < 31 => {
            let hosts = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
            let broadcast = Ipv4Addr::from_bits(address.to_bits() | hosts);
            message.attributes.push(AddressAttribute::Broadcast(broadcast));
        }
        IpAddr::V4(_) => {}
        // The host has given it to this container alone, which is not to wait for others to protest.
        IpAddr::V6(_) => message
            .attributes
            .push(AddressAttribute::Flags(AddressFlags::Nodad)),
    }
    message
}

fn route_message(netlink: &Netlink, route: &Route) -> Result<RouteMessage> {
    let (destination, prefix) = route.destination;
    let mut message = RouteMessage::default();
    message.header.address_family = family(destination);
    message.header.destination_prefix_length = prefix;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.kind = RouteType::Unicast;
    message.header.scope = match route.gateway {
        Some(_) => RouteScope::Universe,
        None => RouteScope::Link,
    };
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Destination(destination.into()));
    if let Some(gateway) = route.gateway {
        attributes.push(RouteAttribute::Gateway(gateway.into()));
    }
    if let Some(source) = route.source {
        attributes.push(RouteAttribute::PrefSource(source.into()));
    }
    if route.metric > 0 {
        attributes.push(RouteAttribute::Priority(route.metric));
    }
    if let Some(name) = &route.interface {
        attributes.push(RouteAttribute::Oif(known(netlink, "routes", name)?));
    }
    Ok(message)
}

fn neighbour_message(netlink: &Netlink, neighbour: &Neighbour) -> Result<NeighbourMessage> {
    let mut message = NeighbourMessage::default();
    message.header.family = family(neighbour.address);
    message.header.ifindex = known(netlink, "neighbours", &neighbour.interface)?;
    message.header.state = NeighbourState::Permanent;
    message.attributes = vec![
        NeighbourAttribute::Destination(neighbour.address.into()),
        NeighbourAttribute::LinkLayerAddress(neighbour.mac.0.to_vec()),
    ];
    Ok(message)
}

fn known(netlink: &Netlink, field: &str, name: &str) -> Result<u32> {
    let index = index_of(netlink, name)?;
    index.ok_or_else(|| {
        invalid(format!(
            "{field}.interface is '{name}', which the container does not have"
        ))
    })
}
