//! Where `koya` keeps things: images, containers, and what all sandboxes share.

use std::env;
use std::path::{Path, PathBuf};

use koya_image::Store;
use koya_proto::RPC_PORT;
use koya_proto::client::{self, AgentClient};
use koya_sandbox::hybrid;
use koya_sandbox::network::Networks;
use koya_sandbox::state::{Container, Records, Status};

use crate::error::CliError;

/// How long a running agent may take to accept a connection.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

/// The folder of a user, or of the host for root.
pub struct Home {
    folder: PathBuf,
}

impl Home {
    /// `KOYA_HOME` if that is set; otherwise /var/lib/koya for root, and `koya` in the user's data folder.
    ///
    /// # Errors
    /// [`CliError::NoHome`]
    pub fn find() -> Result<Self, CliError> {
        let set = |variable: &str| {
            env::var_os(variable)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        if let Some(folder) = env::var_os("KOYA_HOME").filter(|folder| !folder.is_empty()) {
            let folder = std::path::absolute(folder)?;
            return Ok(Self { folder });
        }
        if rustix::process::geteuid().is_root() {
            return Ok(Self {
                folder: "/var/lib/koya".into(),
            });
        }
        let data = set("XDG_DATA_HOME").or_else(|| Some(set("HOME")?.join(".local/share")));
        let folder = data.ok_or(CliError::NoHome)?.join("koya");
        Ok(Self { folder })
    }

    /// The images.
    ///
    /// # Errors
    /// [`CliError::Image`]
    pub fn images(&self) -> Result<Store, CliError> {
        Ok(Store::open(self.folder.join("images"))?)
    }

    /// The containers and their microVMs.
    ///
    /// # Errors
    /// [`CliError::State`]
    pub fn records(&self) -> Result<Records, CliError> {
        Ok(Records::at(&self.folder)?)
    }

    /// The networks.
    ///
    /// # Errors
    /// [`CliError::Network`]
    pub fn networks(&self) -> Result<Networks, CliError> {
        Ok(Networks::at(&self.folder)?)
    }

    /// Where all of it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What all sandboxes share.
    pub fn shared(&self) -> PathBuf {
        self.folder.join("shared")
    }
}

/// Connects to the agent of a running container.
///
/// # Errors
/// [`CliError::NotRunning`], [`CliError::Unreachable`], [`CliError::Agent`]
pub fn agent_of(records: &Records, container: &Container) -> Result<AgentClient, CliError> {
    if !matches!(container.status, Status::Running | Status::Paused) {
        return Err(CliError::NotRunning(container.name.clone()));
    }
    let stream = hybrid::connect(&records.vsock(container), RPC_PORT, PATIENCE);
    let stream = stream.map_err(|error| CliError::Unreachable(container.name.clone(), error))?;
    Ok(client::connect(stream)?)
}
