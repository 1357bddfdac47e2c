//! What a sandbox is made of, wherever it is installed: the VMM, the guest kernel and the agent.

use std::env;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::initramfs;

/// Folders of an installation, after the one in which the running program lies.
const FOLDERS: [&str; 2] = ["/usr/local/lib/koya", "/usr/lib/koya"];

/// Folders in which distributions keep virtiofsd.
const VIRTIOFSD_FOLDERS: [&str; 1] = ["/usr/libexec"];

/// A part is missing, or cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PartsError {
    /// It is nowhere.
    #[error("cannot find {name}: it is neither beside this program nor in {}; set {variable} to its path", FOLDERS.join(" or "))]
    Missing {
        /// The file's name.
        name: &'static str,
        /// The variable that names it.
        variable: &'static str,
    },
    /// The program behind shared folders is nowhere.
    #[error(
        "cannot find virtiofsd, which volumes need: it is neither beside this program nor in {}, {}; install it, or set \
         KOYA_VIRTIOFSD to its path",
        FOLDERS.join(", "),
        VIRTIOFSD_FOLDERS.join(", ")
    )]
    NoVirtiofsd,
    /// The variable leads nowhere.
    #[error("{variable} is {path:?}, which is no file")]
    NoFile {
        /// The variable that names it.
        variable: &'static str,
        /// Its value.
        path: PathBuf,
    },
    /// The agent cannot be packed.
    #[error("cannot pack the agent {agent:?} into {archive:?}")]
    Initramfs {
        /// The agent.
        agent: PathBuf,
        /// The archive.
        archive: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Where the parts are.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The program `koya-vmm`.
    pub vmm: PathBuf,
    /// The guest kernel.
    pub kernel: PathBuf,
    /// The program `koya-agent`.
    pub agent: PathBuf,
}

impl Parts {
    /// Finds them: by `KOYA_VMM`, `KOYA_KERNEL` and `KOYA_AGENT`, beside the running program, or where an installation
    /// puts them.
    ///
    /// # Errors
    /// [`PartsError`], naming the first that is missing.
    pub fn find() -> Result<Self, PartsError> {
        Self::find_with(None)
    }

    /// Finds them, with a kernel that the operator has chosen, unless `KOYA_KERNEL` names another one.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub fn find_with(kernel: Option<&Path>) -> Result<Self, PartsError> {
        let (name, variable) = ("vmlinux", "KOYA_KERNEL");
        Ok(Self {
            vmm: find("koya-vmm", "KOYA_VMM")?,
            kernel: match kernel.filter(|_| env::var_os(variable).is_none()) {
                Some(kernel) => std::path::absolute(kernel).unwrap_or_else(|_| kernel.to_owned()),
                None => find(name, variable)?,
            },
            agent: find("koya-agent", "KOYA_AGENT")?,
        })
    }

    /// Finds the program behind shared folders, which only a microVM with volumes needs: by `KOYA_VIRTIOFSD`, where the
    /// other parts may be, or where a distribution puts it.
    ///
    /// # Errors
    /// [`PartsError`]
    pub fn find_virtiofsd() -> Result<PathBuf, PartsError> {
        let (name, variable) = ("virtiofsd", "KOYA_VIRTIOFSD");
        find(name, variable).or_else(|error| match error {
            PartsError::Missing { .. } => VIRTIOFSD_FOLDERS
                .map(|folder| Path::new(folder).join(name))
                .into_iter()
                .find(|path| path.is_file())
                .ok_or(PartsError::NoVirtiofsd),
            other => Err(other),
        })
    }

    /// Finds Koya's own netavark, which networks are quicker with than with an old one of a distribution's: by `KOYA_NETAVARK`,
    /// or where the other parts may be.
    ///
    /// # Errors
    /// [`PartsError`]
    pub fn find_netavark() -> Result<PathBuf, PartsError> {
        find("netavark", "KOYA_NETAVARK")
    }

    /// Finds the program `koya-runtime`, which engines run: by `KOYA_RUNTIME`, or where the other parts may be.
    ///
    /// # Errors
    /// [`PartsError`]
    pub fn find_runtime() -> Result<PathBuf, PartsError> {
        find("koya-runtime", "KOYA_RUNTIME")
    }

    /// The guest's first file system, made once for each build of the agent and kept in `folder`.
    ///
    /// # Errors
    /// [`PartsError::Initramfs`]
    pub fn initramfs(&self, folder: &Path) -> Result<PathBuf, PartsError> {
        let failed = |archive: &Path| {
            let (agent, archive) = (self.agent.clone(), archive.to_owned());
            move |source| PartsError::Initramfs {
                agent,
                archive,
                source,
            }
        };
        let metadata = fs::metadata(&self.agent).map_err(failed(folder))?;
        let (size, time) = (metadata.len(), metadata.mtime());
        let name = format!(
            "agent-{size}-{time}.{:09}-{}.cpio",
            metadata.mtime_nsec(),
            metadata.ino()
        );
        let archive = folder.join(name);
        if archive.exists() {
            return Ok(archive);
        }
        let packed = initramfs::archive(&fs::read(&self.agent).map_err(failed(&archive))?);
        let unfinished = archive.with_extension(std::process::id().to_string());
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .and_then(|()| write_through(&unfinished, &packed))
            .and_then(|()| fs::rename(&unfinished, &archive))
            .map_err(failed(&archive))?;
        Ok(archive)
    }
}

/// Writes a file that is whole even after a power cut.
fn write_through(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn find(name: &'static str, variable: &'static str) -> Result<PathBuf, PartsError> {
    if let Some(path) = env::var_os(variable).map(PathBuf::from) {
        return match path.is_file() {
            // The VMM runs in another folder.
            true => Ok(std::path::absolute(&path).unwrap_or(path)),
            false => Err(PartsError::NoFile { variable, path }),
        };
    }
    let own = env::current_exe()
        .ok()
        .and_then(|path| Some(path.parent()?.to_owned()));
    let folders = own.into_iter().chain(FOLDERS.map(PathBuf::from));
    let mut found = folders
        .map(|folder| folder.join(name))
        .filter(|path| path.is_file());
    found.next().ok_or(PartsError::Missing { name, variable })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_made_once_and_follows_the_agent() {
        let folder = env::temp_dir().join(format!("koya-parts-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let agent = folder.join("koya-agent");
        fs::write(&agent, "one").unwrap();
        let parts = Parts {
            vmm: "/nowhere".into(),
            kernel: "/nowhere".into(),
            agent: agent.clone(),
        };
        let first = parts.initramfs(&folder).unwrap();
        fs::write(&first, "kept").unwrap();
        assert_eq!(parts.initramfs(&folder).unwrap(), first);
        assert_eq!(fs::read(&first).unwrap(), b"kept");
        fs::write(&agent, "another").unwrap();
        let second = parts.initramfs(&folder).unwrap();
        assert_ne!(second, first);
        let packed = fs::read(second).unwrap();
        assert!(packed.windows(7).any(|window| window == b"another"));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_missing_part_is_named_with_its_variable() {
        let error = find("koya-nonsense", "KOYA_NONSENSE").unwrap_err().to_string();
        assert!(
            error.contains("koya-nonsense") && error.contains("set KOYA_NONSENSE"),
            "{error}"
        );
    }
}
