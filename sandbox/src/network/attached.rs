//! What a container wants of networks, and what it has got.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use koya_proto::v1;
use serde::{Deserialize, Serialize};

use super::address::Mac;
use super::definition::NONE;
use super::firewall::Rules;
use super::netavark::Builder;
use super::ports::{PortMapping, Published};
use super::takeover::{Card, Taken};
use super::{Namespace, NamespaceError};

/// What a container wants.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkRequest {
    /// Names; `none` alone is no network, and an empty list the default one.
    pub networks: Vec<String>,
    /// Ports of the host.
    pub ports: Vec<PortMapping>,
    /// By which other containers find it.
    pub name: String,
    /// More names.
    pub aliases: Vec<String>,
    /// That it has itself.
    pub hostname: String,
    /// Name servers, instead of the networks' own and the host's.
    pub dns: Vec<IpAddr>,
    /// Domains to look names up in.
    pub dns_search: Vec<String>,
    /// Lines of its /etc/hosts: names and their addresses.
    pub hosts: Vec<(String, IpAddr)>,
}

impl NetworkRequest {
    /// How many networks that are.
    pub fn count(&self) -> usize {
        match self.networks.as_slice() {
            [] => 1,
            [one] if one == NONE => 0,
            names => names.len(),
        }
    }
}

/// The network namespace of a microVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VmNetwork {
    /// Id of the microVM.
    pub vm: String,
    /// The namespace's name.
    pub netns: PathBuf,
    /// The microVM's network cards: a tap and a MAC each.
    pub cards: Vec<Card>,
}

impl VmNetwork {
    /// Opens the namespace, for whoever starts the microVM in it: see [`Namespace::enter`].
    ///
    /// # Errors
    /// [`NamespaceError::Open`]
    pub fn namespace(&self) -> Result<Namespace, NamespaceError> {
        Namespace::open(&self.netns)
    }
}

/// A container's end of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Link {
    /// Name of the network.
    pub network: String,
    /// The network's bridge on the host.
    pub bridge: String,
    /// The card that it is joined to.
    pub tap: String,
    /// The card's, and the interface's.
    pub mac: Mac,
    /// What the interface is called in the microVM's namespace.
    pub host_name: String,
    /// What the container calls it.
    pub name: String,
    /// The container's addresses, one for each subnet.
    pub addresses: Vec<IpAddr>,
    /// The network's own.
    pub gateways: Vec<IpAddr>,
}

/// What a container has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attached {
    /// Id of the container.
    pub id: String,
    /// Id of its microVM.
    pub vm: String,
    /// What it wanted.
    pub request: NetworkRequest,
    /// In the order of the request; empty without network.
    pub links: Vec<Link>,
    /// Ports of the host that lead to it.
    pub ports: Vec<Published>,
    /// What the guest has to be told; empty until everything is set up.
    pub taken: Taken,
    /// Name servers that its networks have.
    pub name_servers: Vec<IpAddr>,
    /// Domains that its networks look names up in.
    pub search: Vec<String>,
    /// The namespace, if it has any network.
    pub(super) netns: Option<PathBuf>,
    /// What netavark was, and is to be, told.
    pub(super) options: serde_json::Value,
    /// By what it was attached; a distribution's netavark, if that is not said.
    #[serde(default)]
    pub(super) builder: Option<Builder>,
    /// Its rules of the packet filter, unless netavark has made them.
    #[serde(default)]
    pub(super) rules: Option<Rules>,
}

impl Attached {
    pub(super) fn builder(&self) -> Option<Builder> {
        let netns = self.netns.as_ref();
        netns.and_then(|_| self.builder.clone().or_else(Builder::of_old))
    }

    pub(super) fn rules(&self) -> Option<&Rules> {
        self.rules.as_ref()
    }

    /// The namespace that its interfaces are in.
    pub fn netns(&self) -> Option<&Path> {
        self.netns.as_deref()
    }

    /// What the agent is to do for it, before it starts.
    pub fn guest_request(&self) -> v1::ConfigureNetworkRequest {
        self.taken.request(&self.id)
    }

    /// Its first address of IPv4, or of IPv6 if it has no other.
    pub fn address(&self) -> Option<IpAddr> {
        let mut addresses = self.links.iter().flat_map(|link| &link.addresses);
        let first = addresses.clone().next();
        addresses.find(|address| address.is_ipv4()).or(first).copied()
    }
}
