//! Files into a container and out of it, by the rules of `docker cp`.
//!
//! ```text
//!  place: what is there, and what it is to become ─► folder and name
//!  pack ── stream ─► agent ─► helper in the container: unpack      (in)
//!  unpack ◄─ stream ── agent ◄─ helper in the container: pack      (out)
//! ```
//!
//! What comes out of a container is unpacked as something hostile: it stays in the folder that it was meant for, no
//! link is followed, no device made, and programs lose their set-id bits unless owners are kept.

mod place;

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use koya_archive::{ArchiveError, Owner, Unpack, Unpacked, last_part, open_folder, pack};
use koya_proto::client::{AgentClient, ClientError};
use koya_proto::stream::{self, Token};
use koya_proto::{STREAM_PORT, v1};

use crate::hybrid;
use place::{Place, Source, There, place};

/// The agent accepts at once; an emulated host is slow.
const PATIENCE: Duration = Duration::from_secs(20);
/// st_mode's file types.
const TYPE: u32 = 0o170_000;
const LINK: u32 = 0o120_000;
const FOLDER: u32 = 0o040_000;

/// How to copy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CopyOptions {
    /// A source that is a symbolic link stands for what it leads to (`-L`).
    pub follow: bool,
    /// Files keep their owners (`-a`). Otherwise they become the container's root's, or the caller's.
    pub archive: bool,
}

/// The container that files are copied into or out of.
#[derive(Clone, Copy)]
pub struct Ends<'a> {
    /// Whom to ask.
    pub agent: &'a AgentClient,
    /// Socket of the microVM's vsock device.
    pub vsock: &'a Path,
    /// The container's id.
    pub container: &'a str,
}

/// Nothing, or not everything, was copied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// A file or folder of the host cannot be used.
    #[error("{path:?} cannot be opened")]
    Host {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The container has no such file.
    #[error("the container has nothing at {0:?}")]
    Missing(String),
    /// It ends like a folder, and is none.
    #[error("{0:?} is no folder; without the slash at its end it would name a file")]
    NoFolder(PathBuf),
    /// A folder cannot take a file's place.
    #[error("{0:?} is a file, and a folder cannot be copied over it")]
    FolderOverFile(PathBuf),
    /// The stream cannot be opened.
    #[error("the guest does not take a stream")]
    Stream(#[source] io::Error),
    /// Something is wrong with the files.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The agent failed or refused.
    #[error(transparent)]
    Agent(#[from] ClientError),
}

/// Copies a file or folder of the host into a container.
///
/// # Errors
/// [`CopyError`].
pub fn copy_in(ends: Ends<'_>, from: &Path, to: &str, options: CopyOptions) -> Result<(), CopyError> {
    let host = |source| CopyError::Host {
        path: from.to_owned(),
        source,
    };
    let bytes = from.as_os_str().as_bytes();
    let name = last_part(bytes);
    let follow = options.follow || bytes.ends_with(b"/") || name == ".";
    let found = if follow {
        fs::metadata(from)
    } else {
        fs::symlink_metadata(from)
    }
    .map_err(host)?;
    if bytes.ends_with(b"/") && !found.is_dir() {
        return Err(CopyError::NoFolder(from.to_owned()));
    }
    let (to, there) = ends.target(to)?;
    let source = Source {
        name: &name,
        is_folder: found.is_dir(),
    };
    let Place { folder, top } = place(source, Path::new(&to), there)?;
    let parent = match (name == ".", from.parent()) {
        (true, _) => from,
        (false, Some(parent)) if !parent.as_os_str().is_empty() => parent,
        (false, _) => Path::new("."),
    };
    let opened = open_folder(parent).map_err(host)?;
    let top = top.unwrap_or_else(|| ".".into());
    let folder = folder.to_string_lossy();
    ends.send(&folder, options, |stream| {
        pack(opened.as_fd(), &name, &top, follow, stream)
    })
}

/// Unpacks a tar stream (uncompressed) into a folder of a container.
///
/// # Errors
/// [`CopyError`].
pub fn copy_in_stream(
    ends: Ends<'_>,
    mut input: impl Read,
    folder: &str,
    options: CopyOptions,
) -> Result<(), CopyError> {
    ends.send(folder, options, |mut stream| {
        io::copy(&mut input, &mut stream)
            .map(drop)
            .map_err(ArchiveError::Stream)
    })
}

/// Copies a file or folder of a container to the host. Devices are left out, and counted.
///
/// # Errors
/// [`CopyError`].
pub fn copy_out(ends: Ends<'_>, from: &str, to: &Path, options: CopyOptions) -> Result<Unpacked, CopyError> {
    let (from, is_folder) = ends.source(from, options)?;
    let name = last_part(from.as_bytes());
    let there = match fs::metadata(to) {
        Ok(found) if found.is_dir() => There::Folder,
        Ok(_) => There::File,
        Err(error) if error.kind() == io::ErrorKind::NotFound => There::Nothing,
        Err(source) => {
            let path = to.to_owned();
            return Err(CopyError::Host { path, source });
        }
    };
    let source = Source {
        name: &name,
        is_folder,
    };
    let Place { folder, top } = place(source, to, there)?;
    let opened = open_folder(&folder).map_err(|source| CopyError::Host { path: folder, source })?;
    let owner = if options.archive {
        Owner::AsPacked
    } else {
        Owner::Caller
    };
    // A folder that gets another name is asked for by its own.
    let from = if top.is_some() { whole(&from) } else { &from };
    let unpack = Unpack {
        top,
        owner,
        confined: false,
    };
    ends.receive(from, |stream| unpack.run(opened.as_fd(), stream))
}

/// Writes a file or folder of a container as a tar stream.
///
/// # Errors
/// [`CopyError`].
pub fn copy_out_stream(
    ends: Ends<'_>,
    from: &str,
    mut output: impl Write,
    options: CopyOptions,
) -> Result<(), CopyError> {
    let (from, _) = ends.source(from, options)?;
    ends.receive(&from, |mut stream| {
        let copied = io::copy(&mut stream, &mut output).and_then(|_| output.flush());
        copied.map_err(ArchiveError::Stream)
    })
}

/// A folder's own path, without what says that its contents are meant.
fn whole(path: &str) -> &str {
    let mut path = path;
    while let Some(shorter) = path.strip_suffix("/.").or_else(|| path.strip_suffix('/')) {
        path = shorter;
    }
    if path.is_empty() { "/" } else { path }
}

impl Ends<'_> {
    /// What is at a path to copy to; a link there stands for what it leads to.
    fn target(&self, path: &str) -> Result<(String, There), CopyError> {
        let mut path = path.to_owned();
        let mut found = self.agent.stat_path(self.container, &path)?;
        if found.exists && found.mode & TYPE == LINK {
            path.clone_from(&found.link_target);
            found = self.agent.stat_path(self.container, &path)?;
        }
        let there = match found.mode & TYPE {
            _ if !found.exists => There::Nothing,
            FOLDER => There::Folder,
            _ => There::File,
        };
        Ok((path, there))
    }

    /// What to copy, and whether it is a folder.
    fn source(&self, path: &str, options: CopyOptions) -> Result<(String, bool), CopyError> {
        let mut path = path.to_owned();
        let mut found = self.agent.stat_path(self.container, &path)?;
        if options.follow && found.exists && found.mode & TYPE == LINK {
            path.clone_from(&found.link_target);
            found = self.agent.stat_path(self.container, &path)?;
        }
        if !found.exists {
            return Err(CopyError::Missing(path));
        }
        let is_folder = found.mode & TYPE == FOLDER;
        if path.ends_with('/') && !is_folder {
            return Err(CopyError::NoFolder(path.into()));
        }
        Ok((path, is_folder))
    }

    fn open(&self) -> Result<(Token, UnixStream), CopyError> {
        let opened = || -> io::Result<(Token, UnixStream)> {
            let token = Token::random()?;
            let mut stream = hybrid::connect(self.vsock, STREAM_PORT, PATIENCE)?;
            stream.write_all(&stream::encode(token))?;
            Ok((token, stream))
        };
        opened().map_err(CopyError::Stream)
    }

    fn send(
        &self,
        folder: &str,
        options: CopyOptions,
        write: impl FnOnce(&UnixStream) -> Result<(), ArchiveError>,
    ) -> Result<(), CopyError> {
        let (token, stream) = self.open()?;
        let request = v1::CopyInRequest {
            id: self.container.to_owned(),
            folder: folder.to_owned(),
            stream: token.to_field(),
            own: !options.archive,
            ..Default::default()
        };
        both(
            &stream,
            || self.agent.copy_in(&request),
            || write(&stream),
            Shutdown::Write,
        )
    }

    fn receive<T>(
        &self,
        path: &str,
        read: impl FnOnce(&UnixStream) -> Result<T, ArchiveError>,
    ) -> Result<T, CopyError> {
        let (token, stream) = self.open()?;
        let request = v1::CopyOutRequest {
            id: self.container.to_owned(),
            path: path.to_owned(),
            stream: token.to_field(),
            ..Default::default()
        };
        both(
            &stream,
            || self.agent.copy_out(&request),
            || read(&stream),
            Shutdown::Both,
        )
    }
}

/// Has the agent work at one end of a stream while this end is worked at, and tells whose fault it was.
fn both<T>(
    stream: &UnixStream,
    call: impl FnOnce() -> Result<(), ClientError> + Send,
    work: impl FnOnce() -> Result<T, ArchiveError>,
    after: Shutdown,
) -> Result<T, CopyError> {
    let (answered, worked) = thread::scope(|scope| {
        let call = scope.spawn(|| {
            let answered = call();
            if answered.is_err() {
                // Nobody is at the other end any more. It may have gone already.
                let _ = stream.shutdown(Shutdown::Both);
            }
            answered
        });
        let worked = work();
        let end = if worked.is_ok() { after } else { Shutdown::Both };
        // As above.
        let _ = stream.shutdown(end);
        let answered = match call.join() {
            Ok(answered) => answered,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        (answered, worked)
    });
    match (answered, worked) {
        (Ok(()), Ok(done)) => Ok(done),
        // A stream that broke was broken by the other end.
        (Err(error), Ok(_) | Err(ArchiveError::Stream(_) | ArchiveError::Truncated)) => Err(error.into()),
        (_, Err(error)) => Err(error.into()),
    }
}

/// Splits `CONTAINER:PATH`. A path that begins with `.` or `/` is the host's, whatever colons it has.
pub fn split(text: &OsStr) -> Option<(&str, &str)> {
    let text = text.to_str()?;
    if text.starts_with(['.', '/']) {
        return None;
    }
    text.split_once(':')
        .filter(|(container, _)| !container.is_empty())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use koya_proto::error::{AgentError, ErrorKind};

    use super::*;

    #[test]
    fn containers_are_told_from_paths() {
        let split = |text: &'static str| split(OsStr::new(text));
        assert_eq!(split("web:/etc/hosts"), Some(("web", "/etc/hosts")));
        assert_eq!(split("web:a:b"), Some(("web", "a:b")));
        for path in ["./web:x", "/web:x", "file", ":x", "-"] {
            assert_eq!(split(path), None, "{path}");
        }
    }

    #[test]
    fn contents_are_told_from_folders() {
        assert_eq!(whole("/a/b/."), "/a/b");
        assert_eq!(whole("/a/b//."), "/a/b");
        assert_eq!(whole("/."), "/");
        assert_eq!(whole("/a/b"), "/a/b");
    }

    fn refused() -> ClientError {
        AgentError::new(ErrorKind::ERROR_KIND_STATE, "it is stopped").into()
    }

    #[test]
    fn an_agent_that_refuses_ends_the_stream_and_is_the_one_that_is_told() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let read = || {
            let mut text = String::new();
            (&ours).read_to_string(&mut text).map_err(ArchiveError::Stream)?;
            Err::<(), _>(ArchiveError::Truncated)
        };
        let outcome = both(&ours, || Err(refused()), read, Shutdown::Both);
        assert!(matches!(outcome, Err(CopyError::Agent(_))), "{outcome:?}");
    }

    #[test]
    fn a_fault_of_this_end_ends_the_stream_and_is_told() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let ended = AtomicBool::new(false);
        let call = || {
            let mut text = String::new();
            (&theirs).read_to_string(&mut text).unwrap();
            ended.store(true, Ordering::Relaxed);
            Err(refused())
        };
        let work = || Err::<(), _>(ArchiveError::NoFolder { path: "x".to_owned() });
        let outcome = both(&ours, call, work, Shutdown::Write);
        assert!(
            matches!(outcome, Err(CopyError::Archive(ArchiveError::NoFolder { .. }))),
            "{outcome:?}"
        );
        assert!(ended.into_inner());
    }
}
