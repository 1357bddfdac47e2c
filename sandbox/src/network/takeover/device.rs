//! Interfaces of a namespace.

use std::fs;
use std::io;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage};

use super::TakeoverError;
use crate::network::address::Mac;
use crate::network::netlink::{Add, Netlink};

/// One of them.
#[derive(Debug, Clone)]
pub(super) struct Device {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mac: Mac,
    pub(super) mtu: u32,
    ethernet: bool,
    up: bool,
    /// A tap that some program has made.
    pub(super) tap: bool,
    /// Whether somebody is at its other end.
    carrier: bool,
}

impl Device {
    fn from_message(message: &LinkMessage) -> Option<Self> {
        let (mut name, mut mac, mut mtu, mut tap) = (None, None, 0, false);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(value) => name = Some(value.clone()),
                LinkAttribute::Address(bytes) => mac = <[u8; 6]>::try_from(bytes.as_slice()).ok(),
                LinkAttribute::Mtu(value) => mtu = *value,
                LinkAttribute::LinkInfo(infos) => {
                    tap |= infos
                        .iter()
                        .any(|info| matches!(info, LinkInfo::Kind(InfoKind::Tun)));
                }
                _ => {}
            }
        }
        Some(Self {
            index: message.header.index,
            name: name?,
            mac: Mac::new(mac.unwrap_or_default()),
            mtu,
            ethernet: message.header.link_layer_type == LinkLayerType::Ether,
            up: message.header.flags.contains(LinkFlags::Up),
            tap,
            carrier: message.header.flags.contains(LinkFlags::LowerUp),
        })
    }

    /// Tunnels that the kernel puts into every namespace are down, or are no Ethernet. A tap is one if a program keeps it
    /// open, which is a network then: slirp4netns, pasta. What a microVM has left has nobody at its other end.
    pub(super) fn is_for_guests(&self) -> bool {
        self.ethernet && self.up && (!self.tap || self.carrier)
    }

    /// Whether it is a tap.
    pub(super) fn is_tap(&self) -> bool {
        self.tap
    }
}

/// All there are.
pub(super) fn all(netlink: &Netlink) -> Result<Vec<Device>, TakeoverError> {
    let links = netlink.links().map_err(|source| TakeoverError::List {
        what: "interfaces",
        source,
    })?;
    Ok(links.iter().filter_map(Device::from_message).collect())
}

/// The one of this name.
pub(super) fn find(netlink: &Netlink, name: &str) -> Result<Device, TakeoverError> {
    let device = all(netlink)?.into_iter().find(|device| device.name == name);
    device.ok_or_else(|| TakeoverError::Missing(name.to_owned()))
}

pub(super) fn up(netlink: &Netlink, device: &Device) -> Result<(), TakeoverError> {
    set_up(netlink, device, LinkFlags::Up)
}

pub(super) fn down(netlink: &Netlink, device: &Device) -> Result<(), TakeoverError> {
    set_up(netlink, device, LinkFlags::empty())
}

fn set_up(netlink: &Netlink, device: &Device, flags: LinkFlags) -> Result<(), TakeoverError> {
    let mut message = LinkMessage::default();
    message.header.flags = flags;
    message.header.change_mask = LinkFlags::Up;
    change(netlink, device, message, "change the state")
}

pub(super) fn set_mtu(netlink: &Netlink, device: &Device, mtu: u32) -> Result<(), TakeoverError> {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::Mtu(mtu));
    change(netlink, device, message, "change the MTU")
}

fn change(
    netlink: &Netlink,
    device: &Device,
    mut message: LinkMessage,
    act: &'static str,
) -> Result<(), TakeoverError> {
    message.header.index = device.index;
    netlink
        .request(RouteNetlinkMessage::SetLink(message), Add::Change)
        .map_err(|source| failed(act, device, source))
}

fn failed(act: &'static str, device: &Device, source: io::Error) -> TakeoverError {
    TakeoverError::Change {
        act,
        name: device.name.clone(),
        source,
    }
}

/// Takes its addresses, and with them its routes, away. The kernel of the host is not to answer in its place, nor to find
/// two ways to one network.
pub(super) fn strip(netlink: &Netlink, device: &Device) -> Result<(), TakeoverError> {
    // Without IPv6 on the interface, its link-local address goes as well, and none comes back.
    let switch = format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", device.name);
    match fs::write(switch, "1") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("turn off the IPv6", device, error));
        }
        _ => {}
    }
    let addresses = netlink.addresses().map_err(|source| TakeoverError::List {
        what: "addresses",
        source,
    })?;
    for address in addresses {
        if address.header.index != device.index {
            continue;
        }
        match netlink.request(RouteNetlinkMessage::DelAddress(address), Add::Change) {
            // Gone with another one of its network.
            Err(error) if error.raw_os_error() != Some(libc::EADDRNOTAVAIL) => {
                return Err(failed("remove an address", device, error));
            }
            _ => {}
        }
    }
    Ok(())
}
