//! Takes a network namespace over as it is: whatever arrives at an interface of it goes to the guest, and the guest gets
//! the interface's addresses.
//!
//! ```text
//!   namespace │ eth0 ◄── tc: redirect ──► tap0 │ koya-vmm │ virtio-net, with eth0's MAC │ guest's eth0
//!   somebody  │                                                                           addresses, routes,
//!   made it   │                                                                           neighbours, MTU
//! ```
//!
//! Somebody made the namespace, and somebody knows how to unmake it: netavark, CNI, libnetwork. Little is changed in it here:
//! the queueing disciplines of its interfaces, a rule for its [loopback device](super::loopback), and ways to the guest where
//! [programs](Within::Programs) are to reach it; addresses go only if the caller wants so. Where a name server of
//! the namespace's own has to ask others, [`Live::keep_answers`] lets it hear them. What comes and goes later, comes to the guest and
//! goes from it ([`Live::look`]). A namespace that is there after its guest is given back as it was ([`give_back`]).

mod device;
mod live;
mod read;
mod redirect;
mod taken;
mod tap;
mod watch;
mod within;

use std::io;

use super::namespace::{Namespace, NamespaceError};
use super::netlink::Netlink;
use device::Device;

pub use live::{Live, Within};
pub use taken::{Card, Change, Interface, Neighbour, Route, Taken};
pub use watch::Watch;

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

/// What becomes of the addresses of an interface that is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addresses {
    /// They stay: whoever made the namespace may ask for them.
    Leave,
    /// They go: several interfaces on one bridge would disturb each other.
    Strip,
}

/// Undoes [`Live::take`] and [`Loopback::take`](super::loopback::Loopback::take) in a namespace that outlives its guest: the
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

/// Names that taps of guests may have.
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
