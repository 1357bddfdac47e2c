//! What a guest has of a namespace.

use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;

use koya_proto::v1;
use serde::{Deserialize, Serialize};

use crate::network::address::{Cidr, Mac};

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

/// What has come into a namespace, and gone.
#[derive(Debug)]
pub struct Change {
    /// Cards that have no interface any more, or another one.
    gone: Vec<Mac>,
    /// Routes that were there.
    gone_routes: Vec<Route>,
    come: Taken,
    /// All that is there.
    pub(super) now: Taken,
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
        let interfaces = self.interfaces.iter().map(|interface| v1::Interface {
            mac: interface.mac.bytes().to_vec(),
            name: interface.name.clone(),
            mtu: interface.mtu,
            addresses: interface.addresses.iter().map(Cidr::to_string).collect(),
            ..Default::default()
        });
        let routes = self.routes.iter().map(Route::message);
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

impl Change {
    /// What has to be done so that a guest that has `before` has what is there `now`.
    pub(super) fn between(before: &Taken, now: Taken) -> Self {
        let come = now.interfaces.iter();
        let come = come.filter(|now| !before.interfaces.iter().any(|before| before.is_still(now)));
        let come: Vec<_> = come.cloned().collect();
        let gone = before.interfaces.iter();
        let gone = gone.filter(|before| !now.interfaces.iter().any(|now| before.is_still(now)));
        let gone = gone.map(|interface| interface.mac).collect();
        let is_new = |name: &String| come.iter().any(|interface| interface.name == *name);
        // Of several routes to one place the order counts: all of them go and come.
        let same = |route: &Route| {
            let to = |routes: &[Route]| -> Vec<Route> {
                let alike =
                    |other: &&Route| (other.destination, other.metric) == (route.destination, route.metric);
                routes.iter().filter(alike).cloned().collect()
            };
            let routes = to(&now.routes);
            to(&before.routes) == routes && !routes.iter().any(|route| is_new(&route.interface))
        };
        let changed = |routes: &[Route]| -> Vec<Route> {
            routes.iter().filter(|route| !same(route)).cloned().collect()
        };
        let neighbours = now.neighbours.iter();
        let neighbours = neighbours
            .filter(|neighbour| !before.neighbours.contains(neighbour) || is_new(&neighbour.interface));
        Self {
            gone,
            gone_routes: changed(&before.routes),
            come: Taken {
                routes: changed(&now.routes),
                neighbours: neighbours.cloned().collect(),
                interfaces: come,
            },
            now,
        }
    }

    /// Takes these cards away in any case.
    pub(super) fn take_away(&mut self, cards: impl Iterator<Item = Mac>) {
        for mac in cards {
            if !self.gone.contains(&mac) {
                self.gone.push(mac);
            }
        }
    }

    /// Whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.gone_routes.is_empty() && self.come == Taken::default()
    }

    /// What the agent is asked to do for a container.
    pub fn request(&self, container: &str) -> v1::ConfigureNetworkRequest {
        v1::ConfigureNetworkRequest {
            gone_interfaces: self.gone.iter().map(|mac| mac.bytes().to_vec()).collect(),
            gone_routes: self.gone_routes.iter().map(Route::message).collect(),
            ..self.come.request(container)
        }
    }
}

impl Interface {
    /// Whether the guest has nothing to change to have `now`. An IPv6 address that has run out is none: the guest hears
    /// routers itself.
    fn is_still(&self, now: &Self) -> bool {
        let is_kept = |address: &&Cidr| address.address().is_ipv4() || now.addresses.contains(address);
        let kept: Vec<_> = self.addresses.iter().filter(is_kept).copied().collect();
        let addresses = now.addresses.clone();
        *now == Self {
            addresses,
            ..self.clone()
        } && kept == now.addresses
    }
}

impl Route {
    fn message(&self) -> v1::Route {
        v1::Route {
            destination: self.destination.to_string(),
            gateway: text(self.gateway),
            interface: self.interface.clone(),
            source: text(self.source),
            metric: self.metric,
            ..Default::default()
        }
    }
}

fn text(address: Option<IpAddr>) -> String {
    address.map(|address| address.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(address: [u8; 4], prefix: u8) -> Cidr {
        Cidr::new(address.into(), prefix).unwrap()
    }

    fn interface(number: u8) -> Interface {
        Interface {
            tap: format!("tap{number}"),
            mac: Mac::new([2, 0, 0, 0, 0, number]),
            name: format!("eth{number}"),
            mtu: 1500,
            addresses: vec![cidr([10, number, 0, 2], 24)],
        }
    }

    /// A default route by an interface.
    fn way(number: u8) -> Route {
        Route {
            destination: cidr([0; 4], 0),
            gateway: Some([10, number, 0, 1].into()),
            interface: format!("eth{number}"),
            source: None,
            metric: 0,
        }
    }

    fn with(interfaces: &[u8], routes: &[u8]) -> Taken {
        Taken {
            interfaces: interfaces.iter().copied().map(interface).collect(),
            routes: routes.iter().copied().map(way).collect(),
            neighbours: Vec::new(),
        }
    }

    fn between(before: &Taken, now: &Taken) -> v1::ConfigureNetworkRequest {
        let change = Change::between(before, now.clone());
        assert_eq!(change.now, *now);
        assert_eq!(change.is_empty(), before == now);
        change.request("web")
    }

    fn gateways(routes: &[v1::Route]) -> Vec<&str> {
        routes.iter().map(|route| route.gateway.as_str()).collect()
    }

    #[test]
    fn what_is_the_same_is_not_told_again() {
        let both = with(&[0, 1], &[0]);
        assert_eq!(between(&both, &both), Taken::default().request("web"));
        let request = between(&with(&[0], &[0]), &both);
        let names: Vec<_> = request.interfaces.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["eth1"]);
        assert!(
            request.routes.is_empty() && request.gone_routes.is_empty(),
            "{request:?}"
        );
        let request = between(&both, &with(&[0], &[0]));
        assert_eq!(request.gone_interfaces, [interface(1).mac.bytes().to_vec()]);
        assert!(request.interfaces.is_empty(), "{request:?}");
    }

    #[test]
    fn a_route_to_the_same_place_goes_before_another_comes() {
        let request = between(&with(&[0], &[0]), &with(&[0, 1], &[1]));
        assert_eq!(gateways(&request.gone_routes), ["10.0.0.1"]);
        assert_eq!(gateways(&request.routes), ["10.1.0.1"]);
        // The first is the one that counts.
        let request = between(&with(&[0, 1], &[0, 1]), &with(&[0, 1], &[1, 0]));
        assert_eq!(gateways(&request.gone_routes), ["10.0.0.1", "10.1.0.1"]);
        assert_eq!(gateways(&request.routes), ["10.1.0.1", "10.0.0.1"]);
    }

    #[test]
    fn an_ipv6_address_that_runs_out_is_the_guests_own_affair() {
        let mut before = with(&[0], &[0]);
        let address = Cidr::new("fd00::2".parse().unwrap(), 64).unwrap();
        before.interfaces[0].addresses.push(address);
        let now = with(&[0], &[0]);
        assert!(Change::between(&before, now.clone()).is_empty());
        assert!(!Change::between(&now, before).is_empty());
    }

    #[test]
    fn an_interface_that_has_changed_comes_again_with_all_that_belongs_to_it() {
        let mut before = with(&[0, 1], &[0, 1]);
        before.neighbours = vec![Neighbour {
            address: [10, 0, 0, 9].into(),
            mac: Mac::new([2; 6]),
            interface: "eth0".to_owned(),
        }];
        let mut now = before.clone();
        now.interfaces[0].addresses = vec![cidr([10, 0, 0, 3], 24)];
        let request = between(&before, &now);
        assert_eq!(request.gone_interfaces, [interface(0).mac.bytes().to_vec()]);
        assert_eq!(request.interfaces[0].addresses, ["10.0.0.3/24"]);
        assert_eq!(gateways(&request.routes), ["10.0.0.1", "10.1.0.1"]);
        assert_eq!(request.neighbours.len(), 1);
    }
}
