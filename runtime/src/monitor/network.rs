//! The network of a container that has a microVM of its own: what is in the stand-in's namespace, taken over as it is.
//!
//! Engines make that namespace before the container, but where a user namespace is to own it: then they furnish what they
//! find when the container has been created. Cards for that join its microVM, which runs by then.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use koya_proto::client::AgentClient;
use koya_sandbox::network::loopback::{Guest, Loopback};
use koya_sandbox::network::takeover::{Card, Taken, Within, keep_answers, take_over};
use koya_sandbox::network::{Namespace, VmNetwork};
use koya_sandbox::{Devices, rights};

use crate::error::RuntimeError;
use crate::threads;

/// This thread's network namespace, which is the stand-in's.
const NAMESPACE: &str = "/proc/self/ns/net";

/// What is taken over.
pub(super) struct Network {
    taken: Taken,
    /// Whether there was nothing, and it may come later.
    awaited: AtomicBool,
}

impl Network {
    /// Takes over what is there. If that is nothing, it may come `late`.
    pub fn take(late: bool) -> Result<Self, RuntimeError> {
        let taken = take_over(&Namespace::open(Path::new(NAMESPACE))?, within())?;
        Ok(Self {
            awaited: AtomicBool::new(late && taken.interfaces.is_empty()),
            taken,
        })
    }

    /// The microVM's cards.
    pub fn cards(&self, id: &str) -> VmNetwork {
        VmNetwork {
            vm: id.to_owned(),
            netns: NAMESPACE.into(),
            cards: cards(&self.taken),
        }
    }

    /// Lets a name server of the namespace's own ask others.
    pub fn keep_answers(&self) -> Result<(), RuntimeError> {
        Ok(keep_answers(
            &Namespace::open(Path::new(NAMESPACE))?,
            &self.taken,
        )?)
    }

    /// Joins connections to the namespace's loopback device to the container's, in a thread that lives as long as this process.
    pub fn join_loopback(&self, guest: Guest) -> Result<(), RuntimeError> {
        let loopback = Loopback::take().map_err(RuntimeError::system(
            "take connections to 127.0.0.1 (the kernel needs the module nft_nat)",
        ))?;
        threads::spawn("loopback", move || loopback.serve(guest))
            .map(drop)
            .map_err(threads::refused)
    }

    /// Gives the container what is taken over.
    pub fn give(&self, agent: &AgentClient, id: &str) -> Result<(), RuntimeError> {
        Ok(agent.configure_network(&self.taken.request(id))?)
    }

    /// Gives it what has come since, once. Its microVM is the one with these devices.
    pub fn give_late(&self, devices: &Devices, agent: &AgentClient, id: &str) -> Result<(), RuntimeError> {
        if !self.awaited.swap(false, Ordering::SeqCst) {
            return Ok(());
        }
        let taken = take_over(&Namespace::open(Path::new(NAMESPACE))?, within())?;
        if taken.interfaces.is_empty() {
            return Ok(());
        }
        for card in cards(&taken) {
            devices.add_card(&card)?;
        }
        Ok(agent.configure_network(&taken.request(id))?)
    }
}

/// The cards that the guest has of what is taken over.
fn cards(taken: &Taken) -> Vec<Card> {
    let cards = taken.interfaces.iter().map(|interface| Card {
        tap: interface.tap.clone(),
        mac: interface.mac,
    });
    cards.collect()
}

/// Engines of ordinary users forward ports by connecting from the namespace.
fn within() -> Within {
    match rights::is_root_of_host() {
        true => Within::Nobody,
        false => Within::Programs,
    }
}
