//! Attaches containers to networks and detaches them: what is written down first, and what is done then.
//!
//! The file of a container is there before anything of it is, and goes when nothing of it is left. So whatever dies in
//! between leaves what it takes to clean up.

use std::path::PathBuf;

use super::definition::{DEFAULT, NONE, Network};
use super::error::file;
use super::firewall::Rules;
use super::namespace::Namespace;
use super::netavark::{self, Answer, Netavark, Verb};
use super::records::{Lock, forget};
use super::takeover::{self, Addresses, Card, Taken};
use super::{
    Attached, Link, NetworkError, NetworkRequest, Networks, Published, VmNetwork, host, lease, names, ports,
};

impl Networks {
    /// Why no container can have a network but `none`, if that is so.
    pub fn unavailable(&self) -> Option<NetworkError> {
        if !host::is_root() {
            return Some(NetworkError::Rootless);
        }
        netavark::find().err()
    }

    /// Makes the namespace of a microVM that may have `cards` network cards: at most one for each network of each of its
    /// containers. It starts with the `first` of them, whose taps are made; the others' are when containers need them. What
    /// an earlier microVM of this id left goes first. Only whoever runs the microVM may do this.
    ///
    /// # Errors
    /// [`NetworkError`]; nothing is left then.
    pub fn prepare(&self, vm: &str, cards: usize, first: usize) -> Result<VmNetwork, NetworkError> {
        if !host::is_root() {
            return Err(NetworkError::Rootless);
        }
        // Without the lock unless there is something to do: somebody may hold it for long.
        if self.has_anything(vm)? {
            self.dismantle(vm)?;
        }
        let network = VmNetwork {
            vm: vm.to_owned(),
            netns: self.netns(vm),
            cards: (0..cards)
                .map(|number| Card::random(format!("tap{number}")))
                .collect::<Result<_, _>>()
                .map_err(file("/dev/urandom"))?,
        };
        self.save_vm(&network)?;
        // A name that somebody left before it was a namespace's.
        let made = Namespace::remove(&network.netns)
            .and_then(|()| Namespace::create(&network.netns))
            .map_err(NetworkError::from)
            .and_then(|namespace| {
                let first: Vec<_> = network.cards.iter().take(first).cloned().collect();
                Ok(takeover::make_taps(&namespace, &first)?)
            });
        if let Err(error) = made {
            let _ = Namespace::remove(&network.netns);
            let _ = forget(&self.vms(), vm);
            return Err(error);
        }
        Ok(network)
    }

    /// Attaches a container of a microVM to networks.
    ///
    /// # Errors
    /// [`NetworkError`]; nothing is left then.
    pub fn attach(&self, id: &str, vm: &str, request: &NetworkRequest) -> Result<Attached, NetworkError> {
        let lock = self.lock()?;
        let names = wanted(request)?;
        self.detach_if_known(&lock, id)?;
        self.forget_attached(id)?;
        let mut attached = Attached {
            id: id.to_owned(),
            vm: vm.to_owned(),
            request: request.clone(),
            links: Vec::new(),
            ports: Vec::new(),
            taken: Taken::default(),
            name_servers: Vec::new(),
            search: Vec::new(),
            netns: None,
            options: serde_json::Value::Null,
            builder: None,
            rules: None,
        };
        if names.is_empty() {
            self.save_attached(&attached)?;
            return Ok(attached);
        }
        if !host::is_root() {
            return Err(NetworkError::Rootless);
        }
        let others = self.make_way(&lock, vm, request)?;
        let mut netavark = Netavark::find(&self.run, &others)?;
        let networks = self.usable(&names, &lock)?;
        let cards = self.free_cards(vm, &others, names.len())?;
        attached.ports = ports::publish(&request.ports, &published(&others))?;
        let links = self.links(&lock, &networks, &cards, &others)?;
        attached.options = netavark::options(id, request, &links, &attached.ports, netavark.has_dns());
        let questions = names::questions(id, &links);
        attached.links = links.iter().map(|(_, link)| link.clone()).collect();
        attached.netns = Some(self.netns(vm));
        let up = self
            .build(&mut netavark, &mut attached, &links)
            .and_then(|()| netavark.await_names(&questions));
        match up {
            Ok(()) => {
                self.save_attached(&attached)?;
                Ok(attached)
            }
            Err(error) => {
                // What cannot be removed now is known by its file.
                let _ = self.detach_known(&lock, &attached);
                Err(error)
            }
        }
    }

    /// What a container has; `None` if it was never attached, or is not any more.
    ///
    /// # Errors
    /// [`NetworkError::File`], [`NetworkError::Record`]
    pub fn attached(&self, id: &str) -> Result<Option<Attached>, NetworkError> {
        Ok(self.known(id)?.filter(|_| !self.has_left(id)))
    }

    fn known(&self, id: &str) -> Result<Option<Attached>, NetworkError> {
        let mut all = self.all_attached()?.into_iter();
        Ok(all.find(|attached| attached.id == id))
    }

    /// Takes a container off its networks; its cards are free again. One that has none is as wished.
    ///
    /// # Errors
    /// [`NetworkError`]; it may be asked again.
    pub fn detach(&self, id: &str) -> Result<(), NetworkError> {
        let lock = self.lock()?;
        self.detach_if_known(&lock, id)
    }

    /// Removes the namespace of a microVM that has ended, with whatever is attached in it. None is as wished.
    ///
    /// # Errors
    /// [`NetworkError`]; it may be asked again.
    pub fn dismantle(&self, vm: &str) -> Result<(), NetworkError> {
        let lock = self.lock()?;
        self.dismantle_under(&lock, vm)
    }

    fn has_anything(&self, vm: &str) -> Result<bool, NetworkError> {
        Ok(self.all_vms()?.iter().any(|known| known.vm == vm)
            || self.all_attached()?.iter().any(|attached| attached.vm == vm))
    }

    fn dismantle_under(&self, lock: &Lock, vm: &str) -> Result<(), NetworkError> {
        for attached in self.all_attached()? {
            if attached.vm == vm {
                self.detach_known(lock, &attached)?;
            }
        }
        self.forget_marks(lock);
        if let Some(known) = self.all_vms()?.into_iter().find(|known| known.vm == vm) {
            Namespace::remove(&known.netns)?;
            forget(&self.vms(), vm)?;
        }
        Ok(())
    }

    /// Removes what microVMs have left that are not `alive`: their processes were killed before they could clean up.
    ///
    /// # Errors
    /// [`NetworkError`]: the first of those that could not be cleaned up, after all have been tried.
    pub fn sweep(&self, alive: impl Fn(&str) -> bool) -> Result<(), NetworkError> {
        let mut vms: Vec<String> = self.all_vms()?.into_iter().map(|vm| vm.vm).collect();
        vms.extend(self.all_attached()?.into_iter().map(|attached| attached.vm));
        vms.sort();
        vms.dedup();
        let mut outcome = Ok(());
        for vm in vms.iter().filter(|vm| !alive(vm)) {
            let dismantled = self.lock().and_then(|lock| match alive(vm) {
                // Somebody has started it meanwhile.
                true => Ok(()),
                false => self.dismantle_under(&lock, vm),
            });
            outcome = outcome.and(dismantled);
        }
        outcome
    }

    fn netns(&self, vm: &str) -> PathBuf {
        self.run.join("netns").join(vm)
    }

    fn detach_if_known(&self, lock: &Lock, id: &str) -> Result<(), NetworkError> {
        match self.known(id)? {
            Some(attached) => self.detach_known(lock, &attached),
            None => Ok(()),
        }
    }

    pub(super) fn detach_known(&self, _: &Lock, attached: &Attached) -> Result<(), NetworkError> {
        if let Some(netns) = &attached.netns {
            let netavark = Netavark::that_made(&self.run, attached)?;
            if let Some(rules) = &attached.rules {
                // Should this not come to its end, nobody else relies on what may be gone.
                let mut doubtful = attached.clone();
                doubtful.rules.iter_mut().for_each(Rules::doubt);
                self.save_attached(&doubtful)?;
                rules.remove(&attached.id, &self.others(&attached.id)?)?;
            }
            // Somebody may have removed the namespace; the rules on the host are there all the same.
            let (namespace, lost) = match Namespace::open(netns) {
                Ok(namespace) => (namespace, false),
                Err(_) => {
                    Namespace::remove(netns)?;
                    (Namespace::create(netns)?, true)
                }
            };
            tear_down(&netavark, attached, &namespace)?;
            for link in &attached.links {
                takeover::part(&namespace, &link.tap)?;
            }
            if lost {
                Namespace::remove(netns)?;
            }
        }
        self.forget_attached(&attached.id)
    }

    /// Makes what a container is to have, and has noted before how that is removed.
    fn build(
        &self,
        netavark: &mut Netavark,
        attached: &mut Attached,
        links: &[(Network, Link)],
    ) -> Result<(), NetworkError> {
        let note = |attached: &mut Attached, netavark: &Netavark| {
            let by = netavark.builder().clone();
            attached.rules = (!by.makes_rules).then(|| Rules::of(links, &attached.ports));
            attached.builder = Some(by);
            self.save_attached(attached)
        };
        note(attached, netavark)?;
        match set_up(netavark, attached) {
            Err(NetworkError::OwnRules) => {
                netavark.make_rules();
                note(attached, netavark)?;
                set_up(netavark, attached)?;
            }
            outcome => outcome?,
        }
        let Some(rules) = &mut attached.rules else {
            return Ok(());
        };
        let around = (&*self.others(&attached.id)?, &*self.all_networks()?);
        rules.make(&attached.id, links, &attached.ports, around)
    }

    fn others(&self, id: &str) -> Result<Vec<Attached>, NetworkError> {
        let mut others = self.all_attached()?;
        others.retain(|other| other.id != id);
        Ok(others)
    }

    /// One card and one address of each subnet for each network.
    fn links(
        &self,
        lock: &Lock,
        networks: &[Network],
        cards: &[Card],
        others: &[Attached],
    ) -> Result<Vec<(Network, Link)>, NetworkError> {
        match links(networks, cards, others) {
            Err(NetworkError::Full(_)) => {
                self.clear(lock, |_| true)?;
                links(networks, cards, &self.all_attached()?)
            }
            outcome => outcome,
        }
    }

    /// Cards of a microVM that nothing is joined to, as many as are wanted.
    fn free_cards(&self, vm: &str, others: &[Attached], wanted: usize) -> Result<Vec<Card>, NetworkError> {
        let known = self.all_vms()?.into_iter().find(|known| known.vm == vm);
        let cards = known.map(|known| known.cards).unwrap_or_default();
        if cards.is_empty() {
            return Err(NetworkError::NoCards(vm.to_owned()));
        }
        let used = |card: &Card| {
            let here = others.iter().filter(|other| other.vm == vm);
            here.flat_map(|other| &other.links)
                .any(|link| link.tap == card.tap)
        };
        let mut free: Vec<Card> = cards.into_iter().filter(|card| !used(card)).collect();
        if free.len() < wanted {
            return Err(NetworkError::TooFewCards {
                vm: vm.to_owned(),
                free: free.len(),
                wanted,
            });
        }
        free.truncate(wanted);
        Ok(free)
    }
}

/// Names of the networks that are meant.
fn wanted(request: &NetworkRequest) -> Result<Vec<String>, NetworkError> {
    let names = match request.networks.as_slice() {
        [] => vec![DEFAULT.to_owned()],
        [one] if one == NONE => Vec::new(),
        names => names.to_vec(),
    };
    if names.iter().any(|name| name == NONE) {
        return Err(NetworkError::NoneAndOthers);
    }
    if names.iter().any(|name| name == "host") {
        return Err(NetworkError::Host);
    }
    let twice = names
        .iter()
        .enumerate()
        .find(|(number, name)| names.iter().take(*number).any(|other| other == *name));
    if let Some((_, name)) = twice {
        return Err(NetworkError::Twice(name.clone()));
    }
    if names.is_empty() && !request.ports.is_empty() {
        return Err(NetworkError::PortsWithoutNetwork);
    }
    Ok(names)
}

fn published(others: &[Attached]) -> Vec<(String, Published)> {
    let ports = others.iter().flat_map(|other| {
        let name = format!("container {}", other.request.name);
        other.ports.iter().map(move |port| (name.clone(), *port))
    });
    ports.collect()
}

fn links(
    networks: &[Network],
    cards: &[Card],
    others: &[Attached],
) -> Result<Vec<(Network, Link)>, NetworkError> {
    networks
        .iter()
        .zip(cards)
        .enumerate()
        .map(|(number, (network, card))| {
            let link = Link {
                network: network.name.clone(),
                bridge: network.interface.clone(),
                // Unique in the namespace, as the card is.
                host_name: card.tap.replacen("tap", "eth", 1),
                name: format!("eth{number}"),
                addresses: lease::addresses(network, others)?,
                gateways: network.subnets.iter().map(|subnet| subnet.gateway).collect(),
                mac: card.mac,
                tap: card.tap.clone(),
            };
            Ok((network.clone(), link))
        })
        .collect()
}

fn set_up(netavark: &Netavark, attached: &mut Attached) -> Result<(), NetworkError> {
    let Some(netns) = &attached.netns else {
        return Ok(());
    };
    let namespace = Namespace::open(netns)?;
    let answer: Answer = netavark.run(Verb::Setup, netns, &attached.options)?;
    for link in &attached.links {
        let taken = takeover::take_over_one(
            &namespace,
            &link.host_name,
            &link.name,
            &link.tap,
            Addresses::Strip,
        )?;
        attached.taken.extend(taken);
    }
    for status in answer.into_values() {
        attached
            .name_servers
            .extend(status.dns_server_ips.unwrap_or_default());
        attached
            .search
            .extend(status.dns_search_domains.unwrap_or_default());
    }
    attached.search.dedup();
    Ok(())
}

/// Has netavark remove what it made, all of it or less.
fn tear_down(netavark: &Netavark, attached: &Attached, namespace: &Namespace) -> Result<(), NetworkError> {
    let names: Vec<&str> = attached
        .links
        .iter()
        .map(|link| link.host_name.as_str())
        .collect();
    // It stops at the first interface that it misses.
    takeover::stand_in(namespace, &names)?;
    match netavark.run(Verb::Teardown, namespace.path(), &attached.options) {
        // It misses a bridge that it never made, or that has gone with its last container; so have the rules.
        Err(NetworkError::Netavark(_)) if !has_bridge(attached)? => Ok(()),
        outcome => outcome.map(drop),
    }
}

/// Whether a bridge is there of a network that the container is on.
fn has_bridge(attached: &Attached) -> Result<bool, NetworkError> {
    let interfaces = host::interfaces()?;
    Ok(attached
        .links
        .iter()
        .any(|link| interfaces.contains(&link.bridge)))
}
