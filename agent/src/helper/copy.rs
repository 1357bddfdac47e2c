//! Looks at, packs and unpacks files of a container, as one who is in it.
//!
//! This process joins the container's user and mount namespaces, whose root is
//! the container's: whatever its paths and links are made into meanwhile, they
//! lead to nothing else. It has the rights over files of the container's root,
//! and no others.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use koya_archive::{ArchiveError, Owner, Unpack, last_part, open_folder, pack};
use libcontainer::capabilities::{drop_privileges, reset_effective};
use libcontainer::oci_spec::runtime::{Capabilities, Capability, LinuxCapabilitiesBuilder};
use libcontainer::syscall::syscall::create_syscall;
use nix::sched::{CloneFlags, setns};
use nix::unistd::{Gid, Uid, chdir, setgroups};
use serde::{Deserialize, Serialize};

use super::{Failure, Kind, Outcome};

/// What is to be done.
#[derive(Debug, Serialize, Deserialize)]
pub enum Job {
    /// Look at what is at a path; descriptor 1 gets [`Found`] as JSON.
    Stat {
        /// The path.
        path: String,
    },
    /// Unpack the stream of descriptor 0.
    In {
        /// A folder that is there.
        folder: String,
        /// Everything is to be root's.
        own: bool,
    },
    /// Pack into the stream of descriptor 1.
    Out {
        /// A file or folder.
        path: String,
    },
}

/// What is at a path.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Found {
    /// Is there something at all?
    pub exists: bool,
    /// st_mode.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// Last change, in nanoseconds since 1970.
    pub modified_ns: i64,
    /// Where a symbolic link leads.
    pub link_target: String,
}

/// Rights over files, those of a container's root by default.
const RIGHTS: [Capability; 6] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Setfcap,
];

/// Does a job in the container whose first process is `init`.
pub fn copy(init: u32, job: &Job) -> Outcome {
    let failed = |act: &'static str| move |error: io::Error| Failure::runtime(act, &error);
    // What is joined may not trace this process or look at its files.
    nix::sys::prctl::set_dumpable(false).map_err(|errno| failed("hide from the container")(errno.into()))?;
    enter(init).map_err(failed("enter the container"))?;
    become_root()?;
    match job {
        Job::Stat { path } => {
            let found = look(&absolute(path)).map_err(|error| named(path, "looked at", &error))?;
            let text = serde_json::to_vec(&found).map_err(|error| failed("answer")(error.into()))?;
            io::stdout().write_all(&text).map_err(failed("answer"))?;
        }
        Job::In { folder, own } => unpack(folder, *own)?,
        Job::Out { path } => send(path)?,
    }
    Ok((0, None))
}

/// Joins the namespaces that decide what is there and whose it is.
fn enter(init: u32) -> io::Result<()> {
    let spaces = [
        ("user", CloneFlags::CLONE_NEWUSER),
        ("mnt", CloneFlags::CLONE_NEWNS),
    ];
    let mut opened = Vec::new();
    for (name, flag) in spaces {
        // All are opened before one is joined, from where they can be.
        let theirs = File::open(format!("/proc/{init}/ns/{name}"))?;
        if theirs.metadata()?.ino() != fs::metadata(format!("/proc/self/ns/{name}"))?.ino() {
            opened.push((theirs, flag));
        } else if flag == CloneFlags::CLONE_NEWNS {
            // It has no root of its own: its files are the guest's.
            return Err(io::ErrorKind::PermissionDenied.into());
        }
    }
    for (space, flag) in opened {
        setns(&space, flag)?;
    }
    chdir("/")?;
    Ok(())
}

fn become_root() -> Result<(), Failure> {
    let refused = |act: &'static str| move |error| Failure::runtime(act, &error);
    // Where a user namespace forbids it, there are no further groups.
    let _ = setgroups(&[]);
    let syscall = create_syscall();
    syscall
        .set_id(Uid::from_raw(0), Gid::from_raw(0))
        .map_err(refused("become the container's root"))?;
    reset_effective(syscall.as_ref()).map_err(refused("reset capabilities"))?;
    let rights = || RIGHTS.into_iter().collect::<Capabilities>();
    let capabilities = LinuxCapabilitiesBuilder::default()
        .bounding(rights())
        .effective(rights())
        .permitted(rights())
        .inheritable(Capabilities::new())
        .ambient(Capabilities::new())
        .build()
        .map_err(|error| Failure::runtime("name capabilities", &error))?;
    drop_privileges(&capabilities, syscall.as_ref()).map_err(refused("drop capabilities"))
}

fn absolute(path: &str) -> PathBuf {
    Path::new("/").join(path)
}

fn look(path: &Path) -> io::Result<Found> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        // A file where a folder should be on the way is nothing there either.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(Found::default());
        }
        Err(error) => return Err(error),
    };
    let link_target = if found.is_symlink() {
        target(path)?
    } else {
        PathBuf::new()
    };
    Ok(Found {
        exists: true,
        mode: found.mode(),
        size: found.size(),
        modified_ns: found
            .mtime()
            .saturating_mul(1_000_000_000)
            .saturating_add(found.mtime_nsec()),
        link_target: link_target.to_string_lossy().into_owned(),
    })
}

/// Where a link leads at last; one that leads nowhere, where it points.
fn target(path: &Path) -> io::Result<PathBuf> {
    if let Ok(target) = fs::canonicalize(path) {
        return Ok(target);
    }
    let folder = fs::canonicalize(path.parent().unwrap_or(Path::new("/")))?;
    Ok(folder.join(fs::read_link(path)?))
}

fn unpack(folder: &str, own: bool) -> Result<(), Failure> {
    let opened =
        open_folder(&absolute(folder)).map_err(|error| named(folder, "opened as a folder", &error))?;
    let owner = if own { Owner::Root } else { Owner::AsPacked };
    let options = Unpack {
        top: None,
        owner,
        confined: true,
    };
    let input = io::stdin().as_fd().try_clone_to_owned();
    let input = input.map_err(|error| Failure::runtime("take the stream", &error))?;
    options
        .run(opened.as_fd(), File::from(input))
        .map(drop)
        .map_err(|error| told(&error))
}

fn send(path: &str) -> Result<(), Failure> {
    let whole = absolute(path);
    let name = last_part(whole.as_os_str().as_bytes());
    let (folder, is_followed) = if name == "." {
        (whole.as_path(), true)
    } else {
        (whole.parent().unwrap_or(Path::new("/")), path.ends_with('/'))
    };
    let opened: OwnedFd = open_folder(folder).map_err(|error| named(path, "found", &error))?;
    let output = io::stdout().as_fd().try_clone_to_owned();
    let output = output.map_err(|error| Failure::runtime("take the stream", &error))?;
    pack(opened.as_fd(), &name, &name, is_followed, File::from(output)).map_err(|error| told(&error))
}

fn named(path: &str, act: &str, error: &io::Error) -> Failure {
    Failure::new(
        Kind::Invalid,
        format!("{path:?} in the container cannot be {act}: {error}"),
    )
}

/// What is wrong with the files is the client's to know; all else is ours.
fn told(error: &ArchiveError) -> Failure {
    let mut failure = Failure::runtime("copy", error);
    if !matches!(error, ArchiveError::Stream(_)) {
        failure.kind = Kind::Invalid;
    }
    failure
}
