//! What is wrong with what the configuration names.

use std::io;
use std::path::PathBuf;

use koya_api::config::{DriveConfigError, NetworkConfigError, PathError, SharedFolderError};
use koya_boot::CmdlineError;
use koya_devices::virtio::block::BlockError;
use koya_devices::virtio::fs::ProgramError;
use koya_devices::virtio::net::TapError;
use koya_devices::virtio::vsock::VsockError;

use super::MAX_DEVICES;

/// Something that the configuration names cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ResourceError {
    /// A kernel or initrd cannot be opened. The words of Firecracker's that clients look for come first.
    #[error("The {what} file cannot be opened: {reason} ({field} {path:?})")]
    Open {
        /// "kernel" or "initrd".
        what: &'static str,
        /// The field that named it.
        field: &'static str,
        /// Which.
        path: PathBuf,
        /// Why; in the midst of the message, where Firecracker's clients look for it.
        reason: io::Error,
    },
    /// A kernel or initrd is a directory, pipe or device.
    #[error("The {what} file cannot be opened: {field} {path:?} is {kind}, it must be a regular file")]
    NotAFile {
        /// "kernel" or "initrd".
        what: &'static str,
        /// The field that named it.
        field: &'static str,
        /// Which.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// A path that is none.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The command line is not usable.
    #[error("The kernel command line is invalid: boot_args")]
    Cmdline(#[source] CmdlineError),
    /// A drive's description contradicts itself or another.
    #[error(transparent)]
    Drive(#[from] DriveConfigError),
    /// A drive's file is not usable.
    #[error("drive {id:?}")]
    DriveFile {
        /// Which drive.
        id: String,
        /// Why.
        source: BlockError,
    },
    /// A kind of drive that is not there.
    #[error("drive {id:?}: a vhost-user socket is not supported yet; give a path_on_host")]
    VhostUser {
        /// Which drive.
        id: String,
    },
    /// An interface's description contradicts itself or another.
    #[error(transparent)]
    Network(#[from] NetworkConfigError),
    /// An interface's tap is not usable.
    #[error("Could not create the network device: Open tap device failed: network interface {id:?}")]
    Tap {
        /// Which interface.
        id: String,
        /// Why.
        source: TapError,
    },
    /// No more interrupts.
    #[error(
        "a microVM has at most {MAX_DEVICES} devices: drives, network interfaces, shared folders, the entropy and the socket device together"
    )]
    TooManyDevices,
    /// A shared folder's description contradicts itself or another.
    #[error(transparent)]
    SharedFolder(#[from] SharedFolderError),
    /// Nobody serves a shared folder.
    #[error("shared folder {id:?}")]
    Program {
        /// Which folder.
        id: String,
        /// Why.
        source: ProgramError,
    },
    /// The socket device cannot listen.
    #[error("Cannot create backend for vsock device")]
    Vsock(#[source] VsockError),
    /// A limit on the console's output.
    #[error("serial: rate_limiter is not supported yet; leave it out")]
    SerialLimit,
    /// The output file of the serial console.
    #[error("cannot open serial_out_path {path:?}")]
    SerialOutput {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}
