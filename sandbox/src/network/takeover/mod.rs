//! Takes a network namespace over as it is: whatever arrives at an interface of it goes to the guest, and the guest gets
//! the interface's addresses.
//!
//! ```text
//!   namespace │ eth0 ◄── tc: redirect ──► tap0 │ koya-vmm │ virtio-net, with eth0's MAC │ guest's eth0
//!   somebody  │                                                                           addresses, routes,
//!   made it   │                                                                           neighbours, MTU
//! ```
//!
//! Somebody made the namespace, and somebody knows how to unmake it: netavark, CNI, libnetwork. Nothing is changed in it
//! but the queueing disciplines of its interfaces; their addresses go only if the caller wants so.

mod device;
mod read;
mod redirect;
mod tap;

use std::io;
use std::net::IpAddr;

use koya_proto::v1;
use serde::{Deserialize, Serialize};

use super::address::{Cidr, Mac};
use super::namespace::{Namespace, NamespaceError};
use super::netlink::Netlink;
use device::Device;

/// A namespace cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    /// It cannot be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The kernel does not say what is in it.
    #[error("cannot list the {what} of the network namespace")]
    List {
        /// What was asked for.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// An interface that should be there is not.
    #[error("the network namespace has no interface {0}")]
    Missing(String),
    /// No tap can be made.
    #[error("cannot make the tap {name}; it takes root and /dev/net/tun (modprobe tun)")]
    Tap {
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// An interface cannot be changed.
    #[error("cannot {act} of the interface {name}")]
    Change {
        /// What was to change.
        act: &'static str,
        /// The interface.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// Two interfaces cannot be joined.
    #[error(
        "cannot redirect what arrives at {from} to {to}; the kernel needs the modules sch_ingress, cls_u32 and act_mirred"
    )]
    Redirect {
        /// Where it arrives.
        from: String,
        /// Where it is to go.
        to: String,
        /// Why.
        source: io::Error,
    },
}

/// An interface that a guest takes over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// The tap beside it: `host_dev_name` of the guest's network card.
    pub tap: String,
    /// Of the interface, and of the guest's card.
    pub mac: Mac,
    /// What the guest calls it.
    pub name: String,
    /// In bytes.
    pub mtu: u32,
    /// Those that are its own; link-local ones of IPv6 are the guest's to choose.
    pub addresses: Vec<Cidr>,
}

/// A route of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Prefix 0: the default one.
    pub destination: Cidr,
    /// `None`: on the link.
    pub gateway: Option<IpAddr>,
    /// What the guest calls the interface.
    pub interface: String,
    /// The address that the guest sends from.
    pub source: Option<IpAddr>,
    /// Smaller is better; 0 is the kernel's own choice.
    pub metric: u32,
}

/// An entry of the neighbour table that does not expire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// Whose.
    pub address: IpAddr,
    /// Where.
    pub mac: Mac,
    /// What the guest calls the interface.
    pub interface: String,
}

/// What a guest has to be told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// In the order of the namespace.
    pub interfaces: Vec<Interface>,
    /// Those that the addresses do not bring with them.
    pub routes: Vec<Route>,
    /// The permanent ones.
    pub neighbours: Vec<Neighbour>,
}

/// A card of the guest's without an interface beside its tap: one that comes later is joined to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spare {
    /// `host_dev_name` of the guest's network card.
    pub tap: String,
    /// That the interface will have.
    pub mac: Mac,
}

/// What becomes of the addresses of an interface that is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addresses {
    /// They stay: whoever made the namespace may ask for them.
    Leave,
    /// They go: several interfaces on one bridge would disturb each other.
    Strip,
}

/// Takes over every Ethernet interface of a namespace that is up, under its own name. Its taps are `tap0`, `tap1` ….
///
/// # Errors
/// [`TakeoverError`]; what was done until then goes with the namespace.
pub fn take_over(namespace: &Namespace) -> Result<Taken, TakeoverError> {
    namespace.run(|| {
        let netlink = open()?;
        let devices = device::all(&netlink)?;
        let ours: Vec<_> = devices
            .into_iter()
            .filter(Device::is_for_guests)
            .enumerate()
            .map(|(number, device)| (device.name.clone(), format!("tap{number}"), device))
            .collect();
        let taken = read::taken(&netlink, &ours)?;
        for (_, tap, device) in &ours {
            tap::make(tap)?;
            join(&netlink, device, tap)?;
        }
        Ok(taken)
    })?
}

/// Takes over the interface `from`, which the guest is to call `name`, with a tap that may be there already.
///
/// # Errors
/// [`TakeoverError`]
pub fn take_over_one(
    namespace: &Namespace,
    from: &str,
    name: &str,
    tap: &str,
    addresses: Addresses,
) -> Result<Taken, TakeoverError> {
    namespace.run(|| {
        let netlink = open()?;
        let device = device::find(&netlink, from)?;
        let ours = [(name.to_owned(), tap.to_owned(), device)];
        let taken = read::taken(&netlink, &ours)?;
        let [(_, _, device)] = &ours;
        if addresses == Addresses::Strip {
            device::strip(&netlink, device)?;
        }
        tap::make(tap)?;
        join(&netlink, device, tap)?;
        Ok(taken)
    })?
}

/// Makes taps that wait for their interfaces.
///
/// # Errors
/// [`TakeoverError`]
pub fn make_spares(namespace: &Namespace, spares: &[Spare]) -> Result<(), TakeoverError> {
    namespace.run(|| {
        let netlink = open()?;
        for spare in spares {
            tap::make(&spare.tap)?;
            device::up(&netlink, &device::find(&netlink, &spare.tap)?)?;
        }
        Ok(())
    })?
}

/// Puts something in the place of interfaces that are gone: who removes interfaces by their names wants to find them.
///
/// # Errors
/// [`TakeoverError`]
pub fn stand_in(namespace: &Namespace, names: &[&str]) -> Result<(), TakeoverError> {
    namespace.run(|| {
        let netlink = open()?;
        for name in names {
            match device::find(&netlink, name) {
                Err(TakeoverError::Missing(_)) => tap::make(name)?,
                found => drop(found?),
            }
        }
        Ok(())
    })?
}

/// Parts a tap from its interface, so that another can be joined to it. One that is gone is as wished.
///
/// # Errors
/// [`TakeoverError`]
pub fn part(namespace: &Namespace, tap: &str) -> Result<(), TakeoverError> {
    namespace.run(|| {
        let netlink = open()?;
        match device::find(&netlink, tap) {
            Ok(device) => redirect::remove(&netlink, &device),
            Err(TakeoverError::Missing(_)) => Ok(()),
            Err(error) => Err(error),
        }
    })?
}

fn open() -> Result<Netlink, TakeoverError> {
    Netlink::open().map_err(|source| TakeoverError::List {
        what: "interfaces",
        source,
    })
}

/// Joins an interface to its tap, both ways.
fn join(netlink: &Netlink, device: &Device, tap: &str) -> Result<(), TakeoverError> {
    let tap = device::find(netlink, tap)?;
    device::set_mtu(netlink, &tap, device.mtu)?;
    device::up(netlink, &tap)?;
    // What another interface left at it goes with it.
    redirect::remove(netlink, &tap)?;
    redirect::add(netlink, &tap, device)?;
    redirect::add(netlink, device, &tap)
}

impl Taken {
    /// Adds what another interface brings.
    pub fn extend(&mut self, other: Self) {
        self.interfaces.extend(other.interfaces);
        self.routes.extend(other.routes);
        self.neighbours.extend(other.neighbours);
    }

    /// What the agent is asked to do for a container; an empty id is the guest itself.
    pub fn request(&self, container: &str) -> v1::ConfigureNetworkRequest {
        let text = |address: Option<IpAddr>| address.map(|address| address.to_string()).unwrap_or_default();
        let interfaces = self.interfaces.iter().map(|interface| v1::Interface {
            mac: interface.mac.bytes().to_vec(),
            name: interface.name.clone(),
            mtu: interface.mtu,
            addresses: interface.addresses.iter().map(Cidr::to_string).collect(),
            ..Default::default()
        });
        let routes = self.routes.iter().map(|route| v1::Route {
            destination: route.destination.to_string(),
            gateway: text(route.gateway),
            interface: route.interface.clone(),
            source: text(route.source),
            metric: route.metric,
            ..Default::default()
        });
        let neighbours = self.neighbours.iter().map(|neighbour| v1::Neighbour {
            address: neighbour.address.to_string(),
            mac: neighbour.mac.bytes().to_vec(),
            interface: neighbour.interface.clone(),
            ..Default::default()
        });
        v1::ConfigureNetworkRequest {
            id: container.to_owned(),
            interfaces: interfaces.collect(),
            routes: routes.collect(),
            neighbours: neighbours.collect(),
            ..Default::default()
        }
    }
}
