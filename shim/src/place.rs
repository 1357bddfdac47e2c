//! Where things are.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

use crate::error::TaskError;

/// Where shims listen, as those of other runtimes do.
const SOCKETS: &str = "/run/containerd/s";
/// Where the runtime keeps its states, by namespace.
const STATES: &str = "/run/containerd/koya";

/// The states of a namespace.
pub fn states(namespace: &str) -> PathBuf {
    Path::new(STATES).join(namespace)
}

/// The socket of the shim for a group of containers: one for each containerd, namespace and group, and short enough for the
/// address of a socket.
pub fn socket(containerd: &str, namespace: &str, group: &str) -> PathBuf {
    let mut hash = Sha256::new();
    for part in ["koya", containerd, namespace, group] {
        hash.update(part);
        hash.update([0]);
    }
    let digits = hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>();
    Path::new(SOCKETS).join(digits)
}

/// Locks the folder of a socket, so that nobody else makes or removes one there; until what this answers is dropped.
///
/// # Errors
/// [`TaskError::File`], [`TaskError::System`]
pub fn lock(socket: &Path) -> Result<File, TaskError> {
    let folder = socket.parent().unwrap_or(Path::new("/"));
    let open = File::open(folder).map_err(TaskError::file("open", folder))?;
    flock(&open, FlockOperation::LockExclusive).map_err(TaskError::system("lock the folder of sockets"))?;
    Ok(open)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_group_has_a_socket_of_its_own() {
        let one = socket("/run/c.sock", "default", "web");
        assert_eq!(one, socket("/run/c.sock", "default", "web"));
        assert_ne!(one, socket("/run/c.sock", "default", "we"));
        assert_ne!(one, socket("/run/c.sock", "defaul", "tweb"));
        assert_ne!(one, socket("/run/d.sock", "default", "web"));
        assert!(one.as_os_str().len() < 107);
    }
}
