//! Copying by docker's rules, with an agent of the test's own: its container is a folder.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing
)]
#![allow(clippy::panic, clippy::unwrap_used)]

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use koya_archive::{Owner, Unpack, last_part, open_folder, pack};
use koya_proto::client::{AgentClient, connect};
use koya_proto::error::{AgentError, ErrorKind};
use koya_proto::v1;
use koya_sandbox::copy::{CopyError, CopyOptions, Ends, copy_in, copy_in_stream, copy_out, copy_out_stream};
use ttrpc::TtrpcContext;

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// Streams by token, as they come.
#[derive(Default)]
struct Streams(Mutex<HashMap<Vec<u8>, UnixStream>>, Condvar);

impl Streams {
    fn take(&self, token: &[u8]) -> UnixStream {
        let mut streams = self.0.lock().unwrap();
        loop {
            if let Some(stream) = streams.remove(token) {
                return stream;
            }
            streams = self.1.wait(streams).unwrap();
        }
    }
}

struct FakeAgent {
    root: PathBuf,
    streams: Arc<Streams>,
}

impl FakeAgent {
    fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!(
            "{}/{}",
            self.root.display(),
            path.trim_start_matches('/')
        ))
    }
}

fn refused(error: impl std::fmt::Display) -> ttrpc::Error {
    AgentError::new(ErrorKind::ERROR_KIND_INVALID, error.to_string()).into()
}

impl v1::Agent for FakeAgent {
    fn version(&self, _: &TtrpcContext, request: v1::VersionRequest) -> ttrpc::Result<v1::VersionResponse> {
        Ok(v1::VersionResponse {
            protocol_major: request.protocol_major,
            protocol_minor: request.protocol_minor,
            ..Default::default()
        })
    }

    fn stat_path(
        &self,
        _: &TtrpcContext,
        request: v1::StatPathRequest,
    ) -> ttrpc::Result<v1::StatPathResponse> {
        let path = self.path(&request.path);
        let Ok(found) = fs::symlink_metadata(&path) else {
            return Ok(v1::StatPathResponse::default());
        };
        let target = fs::read_link(&path).map(|link| link.display().to_string());
        Ok(v1::StatPathResponse {
            exists: true,
            mode: found.mode(),
            link_target: target.unwrap_or_default(),
            ..Default::default()
        })
    }

    fn copy_in(&self, _: &TtrpcContext, request: v1::CopyInRequest) -> ttrpc::Result<v1::Empty> {
        let stream = self.streams.take(&request.stream);
        let folder = open_folder(&self.path(&request.folder)).map_err(refused)?;
        let options = Unpack {
            top: None,
            owner: Owner::Caller,
            confined: true,
        };
        options.run(folder.as_fd(), stream).map_err(refused)?;
        Ok(v1::Empty::new())
    }

    fn copy_out(&self, _: &TtrpcContext, request: v1::CopyOutRequest) -> ttrpc::Result<v1::Empty> {
        let stream = self.streams.take(&request.stream);
        let path = self.path(&request.path);
        let name = last_part(path.as_os_str().as_bytes());
        let folder = if name == "." {
            path.as_path()
        } else {
            path.parent().unwrap()
        };
        let folder = open_folder(folder).map_err(refused)?;
        pack(folder.as_fd(), &name, &name, false, stream).map_err(refused)?;
        Ok(v1::Empty::new())
    }
}

struct Place {
    folder: PathBuf,
    agent: AgentClient,
    _server: ttrpc::Server,
}

impl Place {
    fn new() -> Self {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("koya-copy-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        for name in ["host", "room"] {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        let streams = Arc::new(Streams::default());
        let listener = UnixListener::bind(folder.join("v.sock")).unwrap();
        let arriving = Arc::clone(&streams);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                greet(stream, &arriving);
            }
        });
        let agent = FakeAgent {
            root: folder.join("room"),
            streams,
        };
        let address = format!("unix://{}", folder.join("rpc.sock").display());
        let server = ttrpc::Server::new().bind(&address).unwrap();
        let mut server = server.register_service(v1::create_agent(Arc::new(agent)));
        server.start().unwrap();
        let agent = connect(UnixStream::connect(folder.join("rpc.sock")).unwrap()).unwrap();
        Self {
            folder,
            agent,
            _server: server,
        }
    }

    fn host(&self, name: &str) -> PathBuf {
        self.folder.join("host").join(name)
    }

    fn room(&self, name: &str) -> PathBuf {
        self.folder.join("room").join(name)
    }

    fn put(&self, from: &str, to: &str) -> Result<(), CopyError> {
        let from = format!("{}/{from}", self.folder.join("host").display());
        self.with(|ends| copy_in(ends, Path::new(&from), to, CopyOptions::default()))
    }

    fn get(&self, from: &str, to: &str) -> Result<(), CopyError> {
        let to = format!("{}/{to}", self.folder.join("host").display());
        self.with(|ends| copy_out(ends, from, Path::new(&to), CopyOptions::default()))
            .map(drop)
    }

    fn with<T>(&self, act: impl FnOnce(Ends<'_>) -> T) -> T {
        act(Ends {
            agent: &self.agent,
            vsock: &self.folder.join("v.sock"),
            container: "room",
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// What a vsock device and the agent's stream port do together.
fn greet(mut stream: UnixStream, streams: &Streams) {
    let mut line = [0; 12];
    stream.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"CONNECT 901\n");
    stream.write_all(b"OK 1\n").unwrap();
    let mut header = [0; 24];
    stream.read_exact(&mut header).unwrap();
    streams.0.lock().unwrap().insert(header[8..].to_vec(), stream);
    streams.1.notify_all();
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn into_a_container() {
    let place = Place::new();
    fs::create_dir_all(place.host("tree/inner")).unwrap();
    fs::write(place.host("tree/inner/x"), "x").unwrap();
    fs::write(place.host("file"), "f").unwrap();
    fs::set_permissions(place.host("file"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::create_dir(place.room("etc")).unwrap();
    place.put("file", "/etc").unwrap();
    place.put("file", "/etc/named").unwrap();
    assert_eq!(read(&place.room("etc/file")), "f");
    assert_eq!(
        fs::metadata(place.room("etc/named")).unwrap().mode() & 0o777,
        0o700
    );
    place.put("tree", "/etc").unwrap();
    place.put("tree", "/new").unwrap();
    place.put("tree/.", "/etc").unwrap();
    place.put("tree/.", "/dotted").unwrap();
    for path in ["etc/tree/inner/x", "new/inner/x", "etc/inner/x", "dotted/inner/x"] {
        assert_eq!(read(&place.room(path)), "x", "{path}");
    }
    std::os::unix::fs::symlink("/behind-the-link", place.room("link")).unwrap();
    fs::create_dir(place.room("behind-the-link")).unwrap();
    place.put("file", "/link").unwrap();
    assert_eq!(
        read(&place.room("etc/file")),
        "f",
        "a link at the end is followed in the container"
    );
    assert!(matches!(
        place.put("tree", "/etc/file"),
        Err(CopyError::FolderOverFile(_))
    ));
    assert!(matches!(
        place.put("file", "/nowhere/"),
        Err(CopyError::NoFolder(_))
    ));
    assert!(matches!(
        place.put("nothing", "/etc"),
        Err(CopyError::Host { .. })
    ));
    assert!(matches!(
        place.put("file/", "/etc"),
        Err(CopyError::Host { .. } | CopyError::NoFolder(_))
    ));
    assert!(matches!(
        place.put("file", "/no/such/folder"),
        Err(CopyError::Agent(_))
    ));
}

#[test]
fn out_of_a_container() {
    let place = Place::new();
    fs::create_dir_all(place.room("srv/inner")).unwrap();
    fs::write(place.room("srv/inner/x"), "x").unwrap();
    fs::write(place.room("file"), "f").unwrap();
    fs::create_dir(place.host("there")).unwrap();
    place.get("/file", "there").unwrap();
    place.get("/file", "named").unwrap();
    assert_eq!(
        (read(&place.host("there/file")), read(&place.host("named"))),
        ("f".into(), "f".into())
    );
    place.get("/srv", "there").unwrap();
    place.get("/srv", "new").unwrap();
    place.get("/srv/.", "there").unwrap();
    place.get("/srv/.", "dotted").unwrap();
    for path in [
        "there/srv/inner/x",
        "new/inner/x",
        "there/inner/x",
        "dotted/inner/x",
    ] {
        assert_eq!(read(&place.host(path)), "x", "{path}");
    }
    assert!(matches!(place.get("/nothing", "there"), Err(CopyError::Missing(path)) if path == "/nothing"));
    assert!(matches!(
        place.get("/srv", "named"),
        Err(CopyError::FolderOverFile(_))
    ));
    assert!(matches!(
        place.get("/file", "missing/"),
        Err(CopyError::NoFolder(_))
    ));
    assert!(matches!(
        place.get("/file", "missing/name"),
        Err(CopyError::Host { .. })
    ));
}

#[test]
fn as_streams() {
    let place = Place::new();
    fs::create_dir_all(place.room("srv")).unwrap();
    fs::write(place.room("srv/x"), "x".repeat(1_000_000)).unwrap();
    fs::create_dir(place.room("copy")).unwrap();
    let options = CopyOptions::default();
    let mut tar = Vec::new();
    place
        .with(|ends| copy_out_stream(ends, "/srv", &mut tar, options))
        .unwrap();
    place
        .with(|ends| copy_in_stream(ends, &tar[..], "/copy", options))
        .unwrap();
    assert_eq!(read(&place.room("copy/srv/x")).len(), 1_000_000);
    let cut = &tar[..tar.len() / 2];
    let error = place
        .with(|ends| copy_in_stream(ends, cut, "/copy", options))
        .unwrap_err();
    assert!(error.to_string().contains("ends in the middle"), "{error}");
}
