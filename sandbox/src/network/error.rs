//! Why a network cannot be had.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::address::{AddressError, Cidr};
use super::definition::{DEFAULT, MAX_NAME};
use super::namespace::NamespaceError;
use super::netavark::FOLDERS;
use super::ports::PortError;
use super::takeover::TakeoverError;
use crate::parts::PartsError;

/// A network cannot be made, used or removed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A file.
    #[error("cannot use {path:?}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of networks that something else has written.
    #[error("{path:?} does not describe what it should; remove it if nothing uses it")]
    Record {
        /// Which.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A name that no network can have.
    #[error(
        "{0:?} is no name for a network: use 1 to {MAX_NAME} letters, digits, '_', '.' and '-', beginning with a letter or \
         digit; 'none', 'host' and '{DEFAULT}' are taken"
    )]
    BadName(String),
    /// There is one of this name.
    #[error("there is a network {0:?} already")]
    Exists(String),
    /// There is none of this name.
    #[error("no such network: {0}; `koya network ls` lists them")]
    Unknown(String),
    /// The host's own network.
    #[error("a microVM cannot share the host's network; publish ports (-p), or choose a network")]
    Host,
    /// None and others.
    #[error("network 'none' excludes all others; leave one of them out")]
    NoneAndOthers,
    /// The same network twice.
    #[error("network {0} is named twice")]
    Twice(String),
    /// Ports, and no network that they could be published from.
    #[error("ports cannot be published without a network; leave -p or 'none' out")]
    PortsWithoutNetwork,
    /// The network every container gets.
    #[error("the network '{DEFAULT}' is made anew whenever it is needed; it cannot be removed")]
    Default,
    /// Containers are attached.
    #[error("network {name} is in use by {users}; remove them first")]
    InUse {
        /// The network.
        name: String,
        /// Names of containers.
        users: String,
    },
    /// Not an address.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// A subnet that no network can have.
    #[error("{subnet} cannot be a network: {why}")]
    BadSubnet {
        /// Which.
        subnet: Cidr,
        /// What is wrong, and what would be right.
        why: &'static str,
    },
    /// Addresses that mean something else on this host.
    #[error("{subnet} overlaps {other}, which {by} uses; choose another subnet")]
    SubnetTaken {
        /// Which.
        subnet: Cidr,
        /// What it overlaps.
        other: Cidr,
        /// Whose that is.
        by: String,
    },
    /// All of ours mean something else on this host.
    #[error("the host uses all address ranges that networks are made from; name a free one (--subnet)")]
    NoSubnet,
    /// The bridge's name is taken.
    #[error("the host has an interface {interface} that is not of network {network}; remove one of them")]
    BridgeTaken {
        /// Its name.
        interface: String,
        /// Whose it should be.
        network: String,
    },
    /// An option that bridges do not have.
    #[error("networks have no option {0:?}; there are mtu, isolate and vlan")]
    UnknownOption(String),
    /// Its value.
    #[error("{value:?} is no value of option {name}; want {want}")]
    BadOption {
        /// Of which option.
        name: String,
        /// What was given.
        value: String,
        /// What would be right.
        want: &'static str,
    },
    /// No address is left.
    #[error("network {0} has no free address; remove containers, or make a larger network")]
    Full(String),
    /// Not as root.
    #[error("networks take root: run koya as root, or without a network (--network none)")]
    Rootless,
    /// The microVM has no network.
    #[error("the microVM {0} was started without network cards; start another one")]
    NoCards(String),
    /// It has too few cards.
    #[error(
        "the microVM {vm} has {free} free network cards, and {wanted} are needed; remove a container of it, or start it with more"
    )]
    TooFewCards {
        /// Which.
        vm: String,
        /// Cards that nothing is joined to.
        free: usize,
        /// Networks to join.
        wanted: usize,
    },
    /// Ports.
    #[error(transparent)]
    Port(#[from] PortError),
    /// A namespace.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// What is in it.
    #[error(transparent)]
    Takeover(#[from] TakeoverError),
    /// What the host has.
    #[error("cannot list the {what} of the host")]
    List {
        /// What was asked for.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The program is missing.
    #[error(
        "cannot find netavark: it is neither beside this program nor in {}; install it (apt-get install netavark aardvark-dns), \
         or set KOYA_NETAVARK",
        FOLDERS.join(", ")
    )]
    NoNetavark,
    /// The one that is named is not there.
    #[error(transparent)]
    Part(#[from] PartsError),
    /// It cannot be run.
    #[error("cannot run {program:?}")]
    Run {
        /// Which program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It failed.
    #[error("netavark failed: {0}")]
    Netavark(String),
    /// It makes rules of the packet filter by itself, or does nothing.
    #[error("this netavark makes rules of its own")]
    OwnRules,
    /// Rules of the packet filter.
    #[error("cannot change rules of the packet filter: {program}: {words}")]
    Rules {
        /// Which program.
        program: &'static str,
        /// What it says.
        words: String,
    },
    /// Names of containers are not answered.
    #[error(
        "the name server of containers did not answer at {server} for {seconds} s; if another one has that address (`ss -lnup`), \
         stop it, or use a network without names (koya network create --disable-dns)"
    )]
    NoNames {
        /// Where it was asked.
        server: SocketAddr,
        /// How long.
        seconds: u64,
    },
    /// It hangs.
    #[error("{program:?} was not done after {seconds} s; it was ended")]
    Slow {
        /// Which program.
        program: PathBuf,
        /// How long it had.
        seconds: u64,
    },
}

/// What went wrong with a file.
pub(super) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> NetworkError {
    let path = path.into();
    move |source| NetworkError::File { path, source }
}
