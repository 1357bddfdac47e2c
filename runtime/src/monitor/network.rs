//! The network of a container that has a microVM of its own: what is in the stand-in's namespace, taken over as it is.
//!
//! Engines make that namespace before the container, but where a user namespace is to own it: then they furnish what they
//! find when the container has been created. Its microVM, which has booted by then, has cards to spare for that.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use koya_proto::client::AgentClient;
use koya_sandbox::network::takeover::{
    Spare, Taken, Within, keep_answers, make_spares, take_over, take_over_later,
};
use koya_sandbox::network::{Namespace, VmNetwork};
use koya_sandbox::rights;

use crate::error::RuntimeError;

/// This thread's network namespace, which is the stand-in's.
const NAMESPACE: &str = "/proc/self/ns/net";
/// Cards of a microVM whose network comes later: so many networks it can have.
const CARDS: usize = 4;

/// What is taken over.
pub(super) struct Network {
    taken: Taken,
    cards: Vec<Spare>,
    /// Those that wait for interfaces.
    spares: Mutex<Vec<Spare>>,
}

impl Network {
    /// Takes over what is there. If that is nothing, and more may come `late`, there are cards for it.
    pub fn take(late: bool) -> Result<Self, RuntimeError> {
        let namespace = Namespace::open(Path::new(NAMESPACE))?;
        let taken = take_over(&namespace, within())?;
        let cards = taken.interfaces.iter().map(|interface| Spare {
            tap: interface.tap.clone(),
            mac: interface.mac,
        });
        let cards: Vec<_> = cards.collect();
        let mut spares = Vec::new();
        if late && cards.is_empty() {
            // Not `tap0`, which slirp4netns makes.
            let random = (0..CARDS).map(|number| Spare::random(format!("koya{number}")));
            spares = random
                .collect::<Result<_, _>>()
                .map_err(RuntimeError::system("read random numbers"))?;
            make_spares(&namespace, &spares)?;
        }
        Ok(Self {
            cards: cards.into_iter().chain(spares.iter().cloned()).collect(),
            taken,
            spares: Mutex::new(spares),
        })
    }

    /// The microVM's cards.
    pub fn cards(&self, id: &str) -> VmNetwork {
        VmNetwork {
            vm: id.to_owned(),
            netns: NAMESPACE.into(),
            cards: self.cards.clone(),
        }
    }

    /// Lets a name server of the namespace's own ask others.
    pub fn keep_answers(&self) -> Result<(), RuntimeError> {
        Ok(keep_answers(
            &Namespace::open(Path::new(NAMESPACE))?,
            &self.taken,
        )?)
    }

    /// Gives the container what is taken over.
    pub fn give(&self, agent: &AgentClient, id: &str) -> Result<(), RuntimeError> {
        Ok(agent.configure_network(&self.taken.request(id))?)
    }

    /// Gives it what has come since, once.
    pub fn give_late(&self, agent: &AgentClient, id: &str) -> Result<(), RuntimeError> {
        let spares = std::mem::take(&mut *self.spares.lock().unwrap_or_else(PoisonError::into_inner));
        if spares.is_empty() {
            return Ok(());
        }
        let namespace = Namespace::open(Path::new(NAMESPACE))?;
        let taken = take_over_later(&namespace, &spares, within())?;
        match taken.interfaces.is_empty() {
            true => Ok(()),
            false => Ok(agent.configure_network(&taken.request(id))?),
        }
    }
}

/// Engines of ordinary users forward ports by connecting from the namespace.
fn within() -> Within {
    match rights::is_root_of_host() {
        true => Within::Nobody,
        false => Within::Programs,
    }
}
