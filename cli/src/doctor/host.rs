//! The host as the checks see it: files below a root, who asks, and where containers are kept.

use std::env;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use koya_sandbox::parts::Parts;

use crate::home::Home;

/// Longest file that is read: /proc/cpuinfo of a large machine and a kernel's modules.dep fit.
const MAX_FILE: u64 = 16 << 20;

/// A host.
pub struct Host {
    /// The folder in which dev, etc, proc and so on lie: `/`, but in tests.
    pub root: PathBuf,
    /// The user's effective id.
    pub user: u32,
    /// Where images and containers are kept, if that is known.
    pub home: Option<PathBuf>,
    /// The netavark that the user names, or Koya's own.
    pub netavark: Option<PathBuf>,
}

impl Host {
    /// The one on which this runs.
    pub fn this() -> Self {
        let home = Home::find().ok();
        Self {
            root: "/".into(),
            user: rustix::process::geteuid().as_raw(),
            home: home.map(|home| home.folder().to_owned()),
            netavark: match env::var_os("KOYA_NETAVARK") {
                Some(path) => Some(path.into()),
                None => Parts::find_netavark().ok(),
            },
        }
    }

    pub fn is_root(&self) -> bool {
        self.user == 0
    }

    /// Where an absolute path leads on this host.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    pub fn has(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// Opens a device, as those who use it do.
    pub fn open(&self, path: &str) -> io::Result<()> {
        let file = File::options().read(true).write(true).open(self.path(path));
        file.map(drop)
    }

    /// A file's text, or what of it can be had.
    pub fn read(&self, path: &str) -> Option<String> {
        read(File::open(self.path(path)).ok()?)
    }

    /// A file that is one word, such as a sysctl.
    pub fn word(&self, path: &str) -> Option<String> {
        Some(self.read(path)?.trim().to_owned())
    }

    /// The first of some folders in which a program of that name lies.
    pub fn program(&self, folders: &[&str], name: &str) -> Option<PathBuf> {
        let mut places = folders.iter().map(|folder| self.path(folder).join(name));
        places.find(|place| is_program(place))
    }
}

/// Text of at most [`MAX_FILE`] bytes.
pub fn read(from: impl Read) -> Option<String> {
    let mut bytes = Vec::new();
    from.take(MAX_FILE).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether somebody may execute it.
pub fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}
