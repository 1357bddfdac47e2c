//! A namespace that is taken over as long as its guest runs, with what comes into it and goes meanwhile.
//!
//! ```text
//!  engine: a veth comes ──► look: a tap, joined to it ──► the caller: a card for the guest ──► the agent: name, addresses
//!          it goes      ──►       parted                                                       the agent: the card is given back
//! ```
//!
//! A card stays the guest's until it ends, and waits for the next interface.

use super::device::{self, Device};
use super::taken::{Card, Change, Interface, Neighbour, Route, Taken};
use super::{
    Namespace, Netlink, TakeoverError, give_back_here, join, open, read, redirect, tap, tap_numbers, within,
};

/// Who of the namespace itself wants to reach the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Within {
    /// Nobody: whoever wants to comes from outside.
    Nobody,
    /// Programs: an ordinary user's engine forwards ports by connecting from there.
    Programs,
}

/// What is asked for a card that has a tap: the guest is to get it. Whether it has.
pub type Plug<'a> = &'a mut (dyn FnMut(&Card) -> bool + Send);

/// Every Ethernet interface of a namespace that is up, under its own name. Their taps are called `tap0`, `tap1` …, unless an
/// interface is.
#[derive(Debug)]
pub struct Live {
    within: Within,
    slots: Vec<Slot>,
    /// What the guest has been told.
    known: Taken,
    /// Whether a name server of the namespace's own asks others.
    answers: bool,
}

/// A card of the guest's.
#[derive(Debug)]
struct Slot {
    card: Card,
    joined: Option<Joined>,
}

/// The interface that a card is joined to.
#[derive(Debug)]
struct Joined {
    index: u32,
    /// How the guest answers programs of the namespace.
    beside: Option<(Route, Neighbour)>,
    /// Whether it keeps answers of name servers.
    answers: bool,
}

impl Live {
    /// Takes over what is there. The guest begins with [`cards`](Self::cards), and is told of [`taken`](Self::taken). Programs
    /// of the namespace reach guests over interfaces that a program keeps up in any case.
    ///
    /// # Errors
    /// [`TakeoverError`]; what was done until then goes with the namespace.
    pub fn take(namespace: &Namespace, within: Within) -> Result<Self, TakeoverError> {
        namespace.run(|| {
            let netlink = open()?;
            // Of a guest whose end nobody has seen.
            give_back_here(&netlink)?;
            let mut live = Self {
                within,
                slots: Vec::new(),
                known: Taken::default(),
                answers: false,
            };
            live.known = live.follow(&netlink, &mut |_| true)?;
            Ok(live)
        })?
    }

    /// What the guest has been told, or is to be at first.
    pub fn taken(&self) -> &Taken {
        &self.known
    }

    /// The guest's cards.
    pub fn cards(&self) -> Vec<Card> {
        self.slots.iter().map(|slot| slot.card.clone()).collect()
    }

    /// Takes over what has come since, and lets go of what has gone. Where there is no free card, `plug` is asked for one; an
    /// interface that gets none is left alone until the next look. The guest is to be told of the change, which is
    /// [`settled`](Self::settle) then.
    ///
    /// # Errors
    /// [`TakeoverError`]; the next look goes on from there.
    pub fn look(&mut self, namespace: &Namespace, plug: Plug<'_>) -> Result<Change, TakeoverError> {
        let now = namespace.run(|| self.follow(&open()?, plug))??;
        Ok(Change::between(&self.known, now))
    }

    /// The guest has been told.
    pub fn settle(&mut self, change: Change) {
        self.known = change.now;
    }

    /// Lets processes of the namespace go on asking name servers elsewhere: answers to ports from 61440 on, which from now on
    /// are those that the namespace chooses from, stay there; datagrams go to the guest as well.
    ///
    /// # Errors
    /// [`TakeoverError`]; to be had without, only names of elsewhere then stay unknown.
    pub fn keep_answers(&mut self, namespace: &Namespace) -> Result<(), TakeoverError> {
        namespace.run(|| {
            let netlink = open()?;
            self.answer(&netlink, &device::all(&netlink)?)?;
            redirect::choose_own_ports()
        })??;
        self.answers = true;
        Ok(())
    }

    /// Brings the namespace into the shape that it is to have; what the guest is to have of it.
    fn follow(&mut self, netlink: &Netlink, plug: Plug<'_>) -> Result<Taken, TakeoverError> {
        let all = device::all(netlink)?;
        let is_ours = |device: &Device| self.slots.iter().any(|slot| slot.card.tap == device.name);
        let theirs: Vec<_> = all
            .iter()
            .filter(|device| device.is_for_guests() && !is_ours(device))
            .collect();
        self.let_go(netlink, &all, &theirs)?;
        let ours = self.assign(theirs, &all, plug)?;
        let named = ours.iter().filter_map(|&(number, device)| {
            let tap = &self.slots.get(number)?.card.tap;
            Some((device.name.clone(), tap.clone(), device.clone()))
        });
        let mut taken = read::taken(netlink, &named.collect::<Vec<_>>())?;
        let within = self.within;
        for ((number, device), interface) in ours.into_iter().zip(&mut taken.interfaces) {
            let Some(slot) = self.slots.get_mut(number) else {
                continue;
            };
            interface.mac = slot.card.mac;
            match &slot.joined {
                None => slot.joined = Some(joined(netlink, number, device, interface, within)?),
                Some(_) => keep_mtu(netlink, device, &slot.card.tap, &all)?,
            }
        }
        let joined = self.slots.iter().filter_map(|slot| slot.joined.as_ref());
        for (route, neighbour) in joined.filter_map(|joined| joined.beside.clone()) {
            taken.routes.push(route);
            taken.neighbours.push(neighbour);
        }
        if self.answers {
            self.answer(netlink, &device::all(netlink)?)?;
        }
        Ok(taken)
    }

    /// Parts cards from interfaces that are not there any more, or not up.
    fn let_go(&mut self, netlink: &Netlink, all: &[Device], theirs: &[&Device]) -> Result<(), TakeoverError> {
        for slot in &mut self.slots {
            let Some(joined) = &slot.joined else { continue };
            if theirs.iter().any(|device| device.index == joined.index) {
                continue;
            }
            if let Some(device) = all.iter().find(|device| device.index == joined.index) {
                redirect::remove(netlink, device)?;
            }
            if let Some(tap) = all.iter().find(|device| device.name == slot.card.tap) {
                redirect::remove(netlink, tap)?;
                if joined.beside.is_some() {
                    device::strip(netlink, tap)?;
                }
            }
            slot.joined = None;
        }
        Ok(())
    }

    /// The interfaces that have a card, with its number, in the order of cards.
    fn assign<'a>(
        &mut self,
        theirs: Vec<&'a Device>,
        all: &[Device],
        plug: Plug<'_>,
    ) -> Result<Vec<(usize, &'a Device)>, TakeoverError> {
        let mut ours: Vec<(usize, &Device)> = Vec::new();
        for device in theirs {
            let is_free = |number| ours.iter().all(|(other, _)| *other != number);
            let number = match self.number_of(device, is_free) {
                None => self.another(device, all, plug)?,
                number => number,
            };
            ours.extend(number.map(|number| (number, device)));
        }
        ours.sort_by_key(|(number, _)| *number);
        Ok(ours)
    }

    /// The card that an interface is joined to, or else one that waits and is free: best with the same MAC, as the guest's
    /// frames have the card's.
    fn number_of(&self, device: &Device, is_free: impl Fn(usize) -> bool) -> Option<usize> {
        let has = |slot: &Slot| matches!(&slot.joined, Some(joined) if joined.index == device.index);
        let waiting = || {
            let slots = self.slots.iter().enumerate();
            slots.filter(|(number, slot)| slot.joined.is_none() && is_free(*number))
        };
        let same = || waiting().find(|(_, slot)| slot.card.mac == device.mac);
        let joined = self.slots.iter().position(has);
        joined.or_else(|| same().or_else(|| waiting().next()).map(|(number, _)| number))
    }

    /// Another card for this interface, if the guest gets one.
    fn another(
        &mut self,
        device: &Device,
        all: &[Device],
        plug: Plug<'_>,
    ) -> Result<Option<usize>, TakeoverError> {
        let is_free = |name: &String| {
            let taps = self.slots.iter().map(|slot| &slot.card.tap);
            all.iter()
                .map(|device| &device.name)
                .chain(taps)
                .all(|other| other != name)
        };
        let Some(tap) = tap_numbers().find(is_free) else {
            return Ok(None);
        };
        let is_taken = self.slots.iter().any(|slot| slot.card.mac == device.mac);
        let card = match is_taken {
            true => Card::random(tap.clone()).map_err(|source| TakeoverError::Tap { name: tap, source })?,
            false => Card { tap, mac: device.mac },
        };
        tap::make(&card.tap)?;
        if !plug(&card) {
            tap::remove(&card.tap)?;
            return Ok(None);
        }
        self.slots.push(Slot { card, joined: None });
        Ok(self.slots.len().checked_sub(1))
    }

    /// Lets the namespace itself have answers of name servers, over each interface.
    fn answer(&mut self, netlink: &Netlink, all: &[Device]) -> Result<(), TakeoverError> {
        for slot in &mut self.slots {
            let tap = all.iter().find(|device| device.name == slot.card.tap);
            let Some((joined, tap)) = slot.joined.as_mut().filter(|joined| !joined.answers).zip(tap) else {
                continue;
            };
            if let Some(from) = all.iter().find(|device| device.index == joined.index) {
                redirect::keep_answers(netlink, from, tap)?;
                joined.answers = true;
            }
        }
        Ok(())
    }
}

/// Joins an interface to its card's tap.
fn joined(
    netlink: &Netlink,
    number: usize,
    device: &Device,
    interface: &Interface,
    within: Within,
) -> Result<Joined, TakeoverError> {
    tap::make(&interface.tap)?;
    join(netlink, device, &interface.tap)?;
    let beside = match device.tap || within == Within::Programs {
        true => {
            let tap = device::find(netlink, &interface.tap)?;
            within::let_in(netlink, number, device, &tap, interface)?
        }
        false => None,
    };
    Ok(Joined {
        index: device.index,
        beside,
        answers: false,
    })
}

/// A tap passes what its interface does.
fn keep_mtu(netlink: &Netlink, device: &Device, tap: &str, all: &[Device]) -> Result<(), TakeoverError> {
    match all.iter().find(|other| other.name == tap) {
        Some(tap) if tap.mtu != device.mtu => device::set_mtu(netlink, tap, device.mtu),
        _ => Ok(()),
    }
}
