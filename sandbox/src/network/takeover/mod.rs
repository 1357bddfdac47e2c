//! Takes a network namespace over as it is: whatever arrives at an interface of it goes to the guest, and the guest gets
//! the interface's addresses.
//!
//! ```text
//!   namespace │ eth0 ◄── tc: redirect ──► tap0 │ koya-vmm │ virtio-net, with eth0's MAC │ guest's eth0
//!   somebody  │                                                                           addresses, routes,
//!   made it   │                                                                           neighbours, MTU
//! ```
//!
//! Somebody made the namespace, and somebody knows how to unmake it: netavark, CNI, libnetwork. Nothing is changed in it here
//! but the queueing disciplines of its interfaces (and a rule for its [loopback device](super::loopback)); their addresses go only if the caller wants so. Where a name server of
//! the namespace's own has to ask others, [`keep_answers`] lets it hear them. A namespace that is there after its guest is
//! given back as it was ([`give_back`]).

mod device;
mod read;
mod redirect;
mod tap;
mod within;

use std::fs::{self, File};
use std::io::{self, Read};
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
    /// The namespace's own ports cannot be chosen.
    #[error("cannot choose the ports of the network namespace's own (net.ipv4.ip_local_port_range)")]
    Ports {
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

/// A network card of the guest's: there is an interface beside its tap, or one comes later and is joined to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// `host_dev_name` of the guest's network card.
    pub tap: String,
    /// That the interface will have.
    pub mac: Mac,
}

impl Card {
    /// A card with a MAC that nobody else has.
    ///
    /// # Errors
    /// That of /dev/urandom.
    pub fn random(tap: String) -> io::Result<Self> {
        let mut random = [0; 6];
        File::open("/dev/urandom")?.read_exact(&mut random)?;
        let mac = Mac::local(random);
        Ok(Self { tap, mac })
    }
}

/// What becomes of the addresses of an interface that is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addresses {
    /// They stay: whoever made the namespace may ask for them.
    Leave,
    /// They go: several interfaces on one bridge would disturb each other.
    Strip,
}

/// Who of the namespace itself wants to reach the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Within {
    /// Nobody: whoever wants to comes from outside.
    Nobody,
    /// Programs: an ordinary user's engine forwards ports by connecting from there.
    Programs,
}

/// Takes over every Ethernet interface of a namespace that is up, under its own name. Its taps are called `tap0`, `tap1` …,
/// unless an interface is. Programs of the namespace reach guests over interfaces that a program keeps up in any case.
///
/// # Errors
/// [`TakeoverError`]; what was done until then goes with the namespace.
pub fn take_over(namespace: &Namespace, within: Within) -> Result<Taken, TakeoverError> {
    namespace.run(|| {
        let netlink = open()?;
        // Of a guest whose end nobody has seen.
        give_back_here(&netlink)?;
        let mut devices = device::all(&netlink)?;
        devices.retain(Device::is_for_guests);
        let free = tap_names(&devices);
        let spares = devices
            .iter()
            .zip(free)
            .map(|(device, tap)| Card { tap, mac: device.mac });
        let spares: Vec<_> = spares.collect();
        take(&netlink, devices, &spares, within)
    })?
}

/// Lets processes of a namespace that was taken over go on asking name servers elsewhere: answers to ports from 61440 on,
/// which from now on are those that the namespace chooses from, stay there; datagrams go to the guest as well.
///
/// # Errors
/// [`TakeoverError`]; to be had without, only names of elsewhere then stay unknown.
pub fn keep_answers(namespace: &Namespace, taken: &Taken) -> Result<(), TakeoverError> {
    namespace.run(|| {
        let netlink = open()?;
        for interface in &taken.interfaces {
            let from = device::find(&netlink, &interface.name)?;
            redirect::keep_answers(&netlink, &from, &device::find(&netlink, &interface.tap)?)?;
        }
        let range = "/proc/sys/net/ipv4/ip_local_port_range";
        fs::write(range, redirect::OWN_PORT_RANGE).map_err(|source| TakeoverError::Ports { source })
    })?
}

/// Undoes [`take_over`] and [`Loopback::take`](super::loopback::Loopback::take) in a namespace that outlives its guest: the
/// taps go, and frames and connections go their usual way again. As long as
/// a VMM has a tap open, all is left as it is.
///
/// # Errors
/// [`TakeoverError`]
pub fn give_back(namespace: &Namespace) -> Result<(), TakeoverError> {
    namespace.run(|| {
        if give_back_here(&open()?)? {
            // Where the kernel has no rules, there is none of ours.
            let _ = koya_nft::remove();
        }
        Ok(())
    })?
}

/// Whether a guest was here, and has gone.
fn give_back_here(netlink: &Netlink) -> Result<bool, TakeoverError> {
    let devices = device::all(netlink)?;
    let is_there = |name: &String| {
        devices
            .iter()
            .any(|device| device.is_tap() && device.name == *name)
    };
    let taps: Vec<_> = tap_numbers().take(devices.len()).take_while(is_there).collect();
    for tap in &taps {
        if !tap::remove(tap)? {
            return Ok(false);
        }
    }
    let others = devices.iter().filter(|device| device.is_for_guests());
    for device in others.take(taps.len()) {
        redirect::remove(netlink, device)?;
    }
    Ok(!taps.is_empty())
}

/// Joins each device to the tap of its card.
fn take(
    netlink: &Netlink,
    devices: Vec<Device>,
    cards: &[Card],
    within: Within,
) -> Result<Taken, TakeoverError> {
    let ours: Vec<_> = devices
        .into_iter()
        .zip(cards)
        .map(|(device, card)| (device.name.clone(), card.tap.clone(), device))
        .collect();
    let mut taken = read::taken(netlink, &ours)?;
    for (interface, card) in taken.interfaces.iter_mut().zip(cards) {
        interface.mac = card.mac;
    }
    let interfaces = taken.interfaces.clone();
    for (number, ((_, tap, device), interface)) in ours.iter().zip(&interfaces).enumerate() {
        tap::make(tap)?;
        join(netlink, device, tap)?;
        if device.tap || within == Within::Programs {
            let tap = device::find(netlink, tap)?;
            within::let_in(netlink, number, device, &tap, interface, &mut taken)?;
        }
    }
    Ok(taken)
}

/// Names for taps beside these interfaces: the same whenever they are asked for.
fn tap_names(devices: &[Device]) -> Vec<String> {
    let is_free = |name: &String| devices.iter().all(|device| device.name != *name);
    tap_numbers().filter(is_free).take(devices.len()).collect()
}

fn tap_numbers() -> impl Iterator<Item = String> {
    (0..).map(|number: usize| format!("tap{number}"))
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

/// Makes the taps of cards, which wait for their interfaces.
///
/// # Errors
/// [`TakeoverError`]
pub fn make_taps(namespace: &Namespace, spares: &[Card]) -> Result<(), TakeoverError> {
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
