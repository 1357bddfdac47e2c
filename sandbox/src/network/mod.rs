//! Networks of containers.
//!
//! ```text
//!  Networks::prepare ─► a namespace for a microVM, with a tap for each of its cards ─► koya-vmm, started in it
//!  Networks::attach  ─► netavark: bridge, veth, DNS ─► firewall ─► takeover: veth ◄─tc─► tap ─► Attached ─► the agent
//! ```
//!
//! A network is never invented here: somebody prepares a network namespace, and it is taken over as it is (see
//! [`takeover`]). For `koya run` that is netavark; a namespace of somebody else's goes to [`takeover::take_over`] directly.
//!
//! A microVM has as many cards as its first container has networks, and others join it. Whatever is attached to it, first or
//! later, is joined to a card that is free, and has that card's MAC.
//!
//! ```text
//!  HOME/networks/NAME.json                     what a network is
//!  HOME/networks/boot-ID/vms/ID.json           the namespace and the cards of a microVM
//!  HOME/networks/boot-ID/attached/ID.json      what a container has; written before anything is done
//!  HOME/networks/boot-ID/attached/ID.left      it has ended; see [`Networks::leave`]
//!  /run/koya/netns/ID, /run/koya/aardvark-dns  what goes with the machine's power; in another network namespace than the
//!                                              host's own, boot-ID-net-INODE/... and /run/koya/net-INODE/...
//! ```

mod address;
mod attach;
mod attached;
mod definition;
mod error;
mod files;
mod firewall;
mod host;
mod lease;
mod left;
pub mod loopback;
mod names;
mod namespace;
mod netavark;
mod netlink;
mod ports;
mod program;
mod records;
pub mod resolver;
pub mod takeover;

use std::fs;
use std::path::{Path, PathBuf};

pub use address::{AddressError, Cidr, Mac};
pub use attached::{Attached, Link, NetworkRequest, VmNetwork};
pub use definition::{DEFAULT, Network, NewNetwork, Subnet};
pub use error::NetworkError;
pub use firewall::FIREWALLD;
pub use namespace::{Namespace, NamespaceError};
pub use netavark::FOLDERS as NETAVARK_FOLDERS;
pub use ports::{PortError, PortMapping, PortRange, Protocol, Published};

/// All networks of a user, and what is attached to them.
#[derive(Debug, Clone)]
pub struct Networks {
    home: PathBuf,
    run: PathBuf,
    boot: String,
}

impl Networks {
    /// Those of `home`, which is made if it is not there.
    ///
    /// # Errors
    /// [`NetworkError::File`]
    pub fn at(home: &Path) -> Result<Self, NetworkError> {
        let run = Path::new("/run/koya");
        match own_namespace() {
            None => Self::with_run(home, run),
            Some(number) => {
                let boot = format!("{}-net-{number}", records::boot_id()?);
                Self::of(home, &run.join(format!("net-{number}")), boot)
            }
        }
    }

    /// The same with another folder for what goes with the machine's power.
    ///
    /// # Errors
    /// [`NetworkError::File`]
    pub fn with_run(home: &Path, run: &Path) -> Result<Self, NetworkError> {
        Self::of(home, run, records::boot_id()?)
    }

    fn of(home: &Path, run: &Path, boot: String) -> Result<Self, NetworkError> {
        let networks = Self {
            home: home.join("networks"),
            run: run.to_owned(),
            boot,
        };
        networks.make_folders()?;
        Ok(networks)
    }
}

/// The number of the network namespace that this process is in, if that is another one than the first process's: bridges
/// and the name server there cannot be used from here, nor taken down.
fn own_namespace() -> Option<u64> {
    let namespace_of = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).ok();
    let (first, own) = (namespace_of("1")?, namespace_of("thread-self")?);
    let own = own.to_str().filter(|_| first != own)?;
    own.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}
