//! A namespace that is taken over as long as its guest runs, with what comes into it and goes meanwhile.
//!
//! ```text
//!  engine: a veth comes ──► look: a tap, joined to it ──► the caller: a card for the guest ──► the agent: name, addresses
//!          it goes      ──►       parted                                                       the agent: the card is given back
//! ```
//!
//! A card stays the guest's until it ends, and waits for an interface with its MAC: that is in all its frames, and not every
//! network takes another one (macvlan). It is joined to others only when there are no more cards.

use super::device::{self, Device};
use super::taken::{Card, Change, Interface, Neighbour, Route, Taken};
use super::{
    Namespace, Netlink, TakeoverError, give_back_here, join, open, read, redirect, tap, tap_numbers, within,
};
use crate::network::address::Cidr;

/// Who of the namespace itself wants to reach the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Within {
    /// Nobody: whoever wants to comes from outside.
    Nobody,
    /// Programs: an ordinary user's engine forwards ports by connecting from there.
    Programs,
}

/// What is asked for a card that has a tap: the guest is to get it. Whether it has; one that was refused is asked for again
/// at the next look.
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
    /// A tap that the guest took no card for. It stays for the next time: making and removing it is a change as well.
    spare: Option<String>,
    /// Whether the guest may not have been told all of a change.
    is_unsettled: bool,
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
    /// Where programs of the namespace are led.
    addresses: Vec<Cidr>,
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
                spare: None,
                is_unsettled: false,
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

    /// Takes over what has come since, and lets go of what has gone. `plug` is asked for cards; an interface that gets none is
    /// left alone until the next look. The guest is to be told of the change, which is [`settled`](Self::settle) then.
    ///
    /// # Errors
    /// [`TakeoverError`]; the next look goes on from there.
    pub fn look(&mut self, namespace: &Namespace, plug: Plug<'_>) -> Result<Change, TakeoverError> {
        let now = namespace.run(|| self.follow(&open()?, plug))??;
        let mut change = Change::between(&self.known, now);
        if self.is_unsettled {
            // Of what it was told in vain it may have a part.
            let waiting = self.slots.iter().filter(|slot| slot.joined.is_none());
            change.take_away(waiting.map(|slot| slot.card.mac));
        }
        self.is_unsettled = !change.is_empty();
        Ok(change)
    }

    /// The guest has been told.
    pub fn settle(&mut self, change: Change) {
        self.known = change.now;
        self.is_unsettled = false;
    }

    /// Whether an interface is left alone, as the guest took no more cards.
    pub fn lacks_cards(&self) -> bool {
        self.spare.is_some()
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
            match &mut slot.joined {
                None => slot.joined = Some(Joined::new(netlink, number, device, interface, within)?),
                Some(joined) => joined.keep(netlink, number, device, interface)?,
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
                // What the guest says by a card that waits is not for this namespace.
                device::down(netlink, tap)?;
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
        let mut lacks = false;
        for device in theirs {
            let is_free = |number| ours.iter().all(|(other, _)| *other != number);
            let number = match self.number_of(device, is_free) {
                None => self.another(device, all, plug)?.or_else(|| self.waiting(is_free)),
                number => number,
            };
            lacks |= number.is_none();
            ours.extend(number.map(|number| (number, device)));
        }
        if !lacks && let Some(tap) = self.spare.take() {
            tap::remove(&tap)?;
        }
        ours.sort_by_key(|(number, _)| *number);
        Ok(ours)
    }

    /// The card that an interface is joined to, or else one that waits for its like.
    fn number_of(&self, device: &Device, is_free: impl Fn(usize) -> bool) -> Option<usize> {
        let has = |slot: &Slot| matches!(&slot.joined, Some(joined) if joined.index == device.index);
        let fits = |(number, slot): (usize, &Slot)| {
            slot.joined.is_none() && slot.card.mac == device.mac && is_free(number)
        };
        let joined = self.slots.iter().position(has);
        joined.or_else(|| self.slots.iter().enumerate().position(fits))
    }

    /// Any card that waits.
    fn waiting(&self, is_free: impl Fn(usize) -> bool) -> Option<usize> {
        let waits = |(number, slot): (usize, &Slot)| slot.joined.is_none() && is_free(number);
        self.slots.iter().enumerate().position(waits)
    }

    /// Another card for this interface, if the guest gets one.
    fn another(
        &mut self,
        device: &Device,
        all: &[Device],
        plug: Plug<'_>,
    ) -> Result<Option<usize>, TakeoverError> {
        let Some(tap) = self.free_tap(all)? else {
            return Ok(None);
        };
        let is_taken = self.slots.iter().any(|slot| slot.card.mac == device.mac);
        let card = match is_taken {
            true => Card::random(tap.clone()).map_err(|source| TakeoverError::Tap { name: tap, source })?,
            false => Card { tap, mac: device.mac },
        };
        // If its answer was lost, the guest has it all the same.
        if !plug(&card) && !tap::is_open(&card.tap) {
            self.spare = Some(card.tap);
            return Ok(None);
        }
        self.slots.push(Slot { card, joined: None });
        Ok(self.slots.len().checked_sub(1))
    }

    /// A tap that no card has.
    fn free_tap(&mut self, all: &[Device]) -> Result<Option<String>, TakeoverError> {
        if let Some(tap) = self.spare.take() {
            return Ok(Some(tap));
        }
        let is_free = |name: &String| {
            let taps = self.slots.iter().map(|slot| &slot.card.tap);
            let names = all.iter().map(|device| &device.name);
            names.chain(taps).all(|other| other != name)
        };
        let tap = tap_numbers().find(is_free);
        if let Some(tap) = &tap {
            tap::make(tap)?;
        }
        Ok(tap)
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

impl Joined {
    /// Joins an interface to its card's tap.
    fn new(
        netlink: &Netlink,
        number: usize,
        device: &Device,
        interface: &Interface,
        within: Within,
    ) -> Result<Self, TakeoverError> {
        tap::make(&interface.tap)?;
        let join = || {
            join(netlink, device, &interface.tap)?;
            match device.tap || within == Within::Programs {
                true => {
                    let tap = device::find(netlink, &interface.tap)?;
                    within::let_in(netlink, number, device, &tap, interface)
                }
                false => Ok(None),
            }
        };
        // Half of it would be in the way of another try.
        let beside = join().inspect_err(|_| drop(redirect::remove(netlink, device)))?;
        Ok(Self {
            index: device.index,
            beside,
            addresses: interface.addresses.clone(),
            answers: false,
        })
    }

    /// Has the tap pass what its interface does, which may have changed.
    fn keep(
        &mut self,
        netlink: &Netlink,
        number: usize,
        device: &Device,
        interface: &Interface,
    ) -> Result<(), TakeoverError> {
        let tap = device::find(netlink, &interface.tap)?;
        if tap.mtu != device.mtu {
            device::set_mtu(netlink, &tap, device.mtu)?;
        }
        if self.beside.is_some() && self.addresses != interface.addresses {
            within::lead(netlink, number, device, &tap, interface)?;
            self.addresses = interface.addresses.clone();
        }
        Ok(())
    }
}
