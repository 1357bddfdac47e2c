//! What a network is: a bridge of the host with its subnets, as a file.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::address::Cidr;
use super::records::{Lock, forget};
use super::{Attached, NetworkError, Networks, host};

/// The network that a container gets if none is named.
pub const DEFAULT: &str = "koya";
/// No network.
pub(super) const NONE: &str = "none";
/// Longest name.
pub(super) const MAX_NAME: usize = 63;
/// Bridges are called so, with a number.
const BRIDGE: &str = "koya";

/// Addresses of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// All of them.
    pub subnet: Cidr,
    /// The bridge's own.
    pub gateway: IpAddr,
}

/// A network, as its file has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// Unique.
    pub name: String,
    /// Name of the bridge, which is there while a container is attached.
    pub interface: String,
    /// At least one.
    pub subnets: Vec<Subnet>,
    /// Nothing beyond the bridge can be reached.
    pub internal: bool,
    /// Containers find each other by name.
    pub dns: bool,
    /// `mtu`, `isolate`, `vlan`.
    pub options: BTreeMap<String, String>,
    /// Seconds since 1970 UTC.
    pub created: u64,
}

/// A network that is to be made.
#[derive(Debug, Clone, Default)]
pub struct NewNetwork {
    /// Unique.
    pub name: String,
    /// With their gateways; without, the first address. Empty: a free one is chosen.
    pub subnets: Vec<(Cidr, Option<IpAddr>)>,
    /// Nothing beyond the bridge can be reached.
    pub internal: bool,
    /// Containers do not find each other by name.
    pub no_dns: bool,
    /// `mtu`, `isolate`, `vlan`.
    pub options: BTreeMap<String, String>,
}

impl Networks {
    /// Makes a network. Its bridge comes with its first container.
    ///
    /// # Errors
    /// [`NetworkError`]: the name, a subnet or an option cannot be had.
    pub fn create(&self, new: NewNetwork) -> Result<Network, NetworkError> {
        let _lock = self.lock()?;
        if !is_name(&new.name) || [DEFAULT, NONE, "host"].contains(&new.name.as_str()) {
            return Err(NetworkError::BadName(new.name.chars().take(MAX_NAME).collect()));
        }
        let known = self.all_networks()?;
        if known.iter().any(|network| network.name == new.name) {
            return Err(NetworkError::Exists(new.name));
        }
        let subnets = match new.subnets.as_slice() {
            [] => vec![free(pool(), &known)?],
            wanted => chosen(wanted, &known)?,
        };
        let network = Network {
            interface: free_bridge(&known)?,
            subnets,
            internal: new.internal,
            dns: !new.no_dns,
            options: checked_options(new.options)?,
            created: now(),
            name: new.name,
        };
        self.save_network(&network)?;
        Ok(network)
    }

    /// All there are, the default one among them.
    ///
    /// # Errors
    /// [`NetworkError::File`], [`NetworkError::Record`], [`NetworkError::NoSubnet`]
    pub fn list(&self) -> Result<Vec<Network>, NetworkError> {
        let lock = self.lock()?;
        self.default_network(&lock)?;
        self.all_networks()
    }

    /// The one of this name.
    ///
    /// # Errors
    /// [`NetworkError::Unknown`], and those of [`Networks::list`].
    pub fn inspect(&self, name: &str) -> Result<Network, NetworkError> {
        let found = self.list()?.into_iter().find(|network| network.name == name);
        found.ok_or_else(|| NetworkError::Unknown(name.to_owned()))
    }

    /// Removes one that nothing uses.
    ///
    /// # Errors
    /// [`NetworkError::InUse`], [`NetworkError::Unknown`], [`NetworkError::Default`]
    pub fn remove(&self, name: &str) -> Result<(), NetworkError> {
        let lock = self.lock()?;
        if name == DEFAULT {
            return Err(NetworkError::Default);
        }
        if !self.all_networks()?.iter().any(|network| network.name == name) {
            return Err(NetworkError::Unknown(name.to_owned()));
        }
        self.clear(&lock, |left| is_on(left, name))?;
        let users = self.users(name)?;
        if !users.is_empty() {
            return Err(NetworkError::InUse {
                name: name.to_owned(),
                users: users.join(", "),
            });
        }
        forget(&self.home, name)
    }

    /// Names of the containers that are attached to a network.
    ///
    /// # Errors
    /// [`NetworkError::File`], [`NetworkError::Record`]
    pub fn users(&self, network: &str) -> Result<Vec<String>, NetworkError> {
        let attached = self.all_attached()?.into_iter();
        let users = attached.filter(|container| is_on(container, network) && !self.has_left(&container.id));
        Ok(users.map(|container| container.request.name).collect())
    }

    /// Whether a network is there on the host, be it that it is still to be taken down.
    fn is_up(&self, network: &str) -> Result<bool, NetworkError> {
        Ok(self
            .all_attached()?
            .iter()
            .any(|container| is_on(container, network)))
    }

    /// Those of these names, as they are to be used now.
    pub(super) fn usable(&self, names: &[String], lock: &Lock) -> Result<Vec<Network>, NetworkError> {
        let default = self.default_network(lock)?;
        let known = self.all_networks()?;
        let mut networks = Vec::new();
        for name in names {
            let network = known.iter().find(|network| network.name == *name);
            let network = network.ok_or_else(|| NetworkError::Unknown(name.clone()))?;
            if *name != default.name && !self.is_up(name)? {
                check_unused(network)?;
            }
            networks.push(network.clone());
        }
        Ok(networks)
    }

    /// The default network. While nothing uses it, it makes way for whatever else the host does with its addresses.
    fn default_network(&self, _: &Lock) -> Result<Network, NetworkError> {
        let known = self.all_networks()?;
        let (own, others): (Vec<_>, Vec<_>) = known.into_iter().partition(|network| network.name == DEFAULT);
        if let Some(network) = own.into_iter().next()
            && (self.is_up(DEFAULT)? || check_unused(&network).is_ok())
        {
            return Ok(network);
        }
        let network = Network {
            name: DEFAULT.to_owned(),
            interface: free_bridge(&others)?,
            subnets: vec![free(default_pool(), &others)?],
            internal: false,
            dns: true,
            options: BTreeMap::new(),
            created: now(),
        };
        self.save_network(&network)?;
        Ok(network)
    }
}

fn is_on(container: &Attached, network: &str) -> bool {
    container.links.iter().any(|link| link.network == network)
}

/// Of a network without containers: neither its bridge nor its addresses are anybody else's.
fn check_unused(network: &Network) -> Result<(), NetworkError> {
    if host::interfaces()?.contains(&network.interface) {
        return Err(NetworkError::BridgeTaken {
            interface: network.interface.clone(),
            network: network.name.clone(),
        });
    }
    for subnet in &network.subnets {
        check_free(subnet.subnet, &[])?;
    }
    Ok(())
}

fn check_free(subnet: Cidr, known: &[Network]) -> Result<(), NetworkError> {
    let taken = |other: Cidr, by: String| NetworkError::SubnetTaken { subnet, other, by };
    for network in known {
        if let Some(other) = network.subnets.iter().find(|other| other.subnet.overlaps(subnet)) {
            return Err(taken(other.subnet, format!("network {}", network.name)));
        }
    }
    match host::networks()?.into_iter().find(|other| other.overlaps(subnet)) {
        Some(other) => Err(taken(other, "the host".to_owned())),
        None => Ok(()),
    }
}

/// The first one that is free.
fn free(pool: impl Iterator<Item = Cidr>, known: &[Network]) -> Result<Subnet, NetworkError> {
    for subnet in pool {
        match check_free(subnet, known) {
            Ok(()) => return with_gateway(subnet, None),
            Err(NetworkError::SubnetTaken { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Err(NetworkError::NoSubnet)
}

/// Ranges for the default network: large, and seldom used by others.
fn default_pool() -> impl Iterator<Item = Cidr> {
    [[10, 91], [10, 191], [10, 131], [172, 29], [10, 61]]
        .into_iter()
        .filter_map(|[a, b]| Cidr::new([a, b, 0, 0].into(), 16))
}

/// Ranges for networks of which nobody said more than the name.
fn pool() -> impl Iterator<Item = Cidr> {
    (92..=95_u8).flat_map(|b| (0..=255_u8).filter_map(move |c| Cidr::new([10, b, c, 0].into(), 24)))
}

fn chosen(wanted: &[(Cidr, Option<IpAddr>)], known: &[Network]) -> Result<Vec<Subnet>, NetworkError> {
    let mut subnets: Vec<Subnet> = Vec::new();
    for &(subnet, gateway) in wanted {
        let bad = |why| Err(NetworkError::BadSubnet { subnet, why });
        if !subnet.is_network() {
            return bad("bits of a host are set; end it with zeros");
        }
        if subnet.size() < 4 {
            return bad("it has no room for a gateway and a container; use a shorter prefix");
        }
        if subnet.prefix() < 8 {
            return bad("it is larger than any network; use a prefix of 8 or more");
        }
        let first = subnet.address();
        if first.is_loopback() || first.is_multicast() || first.is_unspecified() {
            return bad("such addresses have a meaning of their own; use a private range like 10.92.0.0/24");
        }
        check_free(subnet, known)?;
        let with = with_gateway(subnet, gateway)?;
        let family = |other: &Subnet| other.subnet.address().is_ipv4() == first.is_ipv4();
        if subnets.iter().any(family) {
            return bad("there is another subnet of its family; a network has one of IPv4 and one of IPv6");
        }
        subnets.push(with);
    }
    Ok(subnets)
}

fn with_gateway(subnet: Cidr, gateway: Option<IpAddr>) -> Result<Subnet, NetworkError> {
    let last = subnet.host(subnet.size().saturating_sub(1));
    let gateway = gateway.or_else(|| subnet.host(1));
    let usable = |gateway: &IpAddr| {
        subnet.contains(*gateway) && Some(*gateway) != subnet.host(0) && Some(*gateway) != last
    };
    match gateway.filter(usable) {
        Some(gateway) => Ok(Subnet { subnet, gateway }),
        None => Err(NetworkError::BadSubnet {
            subnet,
            why: "its gateway is not one of its addresses; use the first one",
        }),
    }
}

fn free_bridge(known: &[Network]) -> Result<String, NetworkError> {
    let interfaces = host::interfaces()?;
    let names = (0..=u32::MAX).map(|number| format!("{BRIDGE}{number}"));
    let mut free = names
        .filter(|name| !known.iter().any(|network| network.interface == *name) && !interfaces.contains(name));
    Ok(free.next().unwrap_or_default())
}

fn checked_options(options: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, NetworkError> {
    let checked = options.into_iter().map(|(name, value)| {
        // As docker's users call it.
        let name = match name.as_str() {
            "com.docker.network.driver.mtu" => "mtu".to_owned(),
            _ => name,
        };
        let number = value.parse::<u32>().ok();
        let (fine, want) = match name.as_str() {
            "mtu" => (
                number.is_some_and(|mtu| (68..=65535).contains(&mtu)),
                "68 to 65535",
            ),
            "vlan" => (number.is_some_and(|vlan| (1..=4094).contains(&vlan)), "1 to 4094"),
            "isolate" => (["true", "false"].contains(&value.as_str()), "true or false"),
            _ => return Err(NetworkError::UnknownOption(name)),
        };
        if fine {
            Ok((name, value))
        } else {
            Err(NetworkError::BadOption { name, value, want })
        }
    });
    checked.collect()
}

fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
