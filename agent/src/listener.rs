//! Where connections come from: vsock ports in a guest, unix sockets elsewhere.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use koya_proto::{CALL_PORT, RPC_PORT, RPC_SOCKET, STREAM_PORT, STREAM_SOCKET};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrLike, UnixAddr, VsockAddr, accept4, bind, connect,
    getpeername, listen, socket,
};
use nix::sys::stat::{Mode, umask};

use crate::error::StartError;

/// Connections that wait to be accepted: 200 execs at once open 600 streams.
const BACKLOG: i32 = 1024;

/// A listening socket.
pub struct Listener {
    socket: OwnedFd,
    vsock: bool,
    /// A port of the host that is called first.
    call: Cell<Option<u32>>,
    /// What becomes of another such call before: see [`Self::before_call`].
    rehearsal: Option<fn(OwnedFd)>,
}

impl Listener {
    /// The RPC port and the stream port, for the host alone.
    pub fn vsock_pair() -> Result<(Self, Self), StartError> {
        let (rpc, streams) = (Self::vsock(RPC_PORT)?, Self::vsock(STREAM_PORT)?);
        rpc.call.set(Some(CALL_PORT));
        Ok((rpc, streams))
    }

    /// The two sockets in a folder, for its owner alone. Others may pass through: a
    /// container's root with a user namespace of its own is somebody else, and its
    /// files are in here, too.
    pub fn unix_pair(folder: &Path) -> Result<(Self, Self), StartError> {
        let act = format!("prepare the folder {}", folder.display());
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(folder)
            .and_then(|()| std::fs::set_permissions(folder, PermissionsExt::from_mode(0o711)))
            .map_err(StartError::io(act))?;
        Ok((
            Self::unix(&folder.join(RPC_SOCKET))?,
            Self::unix(&folder.join(STREAM_SOCKET))?,
        ))
    }

    fn vsock(port: u32) -> Result<Self, StartError> {
        let address = VsockAddr::new(libc::VMADDR_CID_ANY, port);
        Self::new(AddressFamily::Vsock, &address)
            .map_err(StartError::io(format!("listen on vsock port {port}")))
    }

    fn unix(path: &Path) -> Result<Self, StartError> {
        let act = format!("listen on {}", path.display());
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(StartError::io(act)(error)),
            _ => {}
        }
        UnixAddr::new(path)
            .map_err(io::Error::from)
            .and_then(|address| {
                let before = umask(Mode::from_bits_truncate(0o077));
                let socket = Self::new(AddressFamily::Unix, &address);
                umask(before);
                socket
            })
            .map_err(StartError::io(act))
    }

    fn new(family: AddressFamily, address: &dyn SockaddrLike) -> io::Result<Self> {
        let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        bind(socket.as_raw_fd(), address)?;
        listen(&socket, Backlog::new(BACKLOG)?)?;
        let vsock = family == AddressFamily::Vsock;
        Ok(Self {
            socket,
            vsock,
            call: Cell::new(None),
            rehearsal: None,
        })
    }

    /// Has the host called twice, and this done with the first connection. The second one, made when it is done, is the one
    /// that [`Self::accept`] answers.
    pub fn before_call(&mut self, rehearsal: fn(OwnedFd)) {
        self.rehearsal = Some(rehearsal);
    }

    /// The next connection; the first is the one to the host that waits for this
    /// agent, if there is one. On vsock, only of the host: a process of the guest
    /// could reach these ports through the loopback.
    pub fn accept(&self) -> io::Result<OwnedFd> {
        if let Some(port) = self.call.take() {
            if let Some(rehearsal) = self.rehearsal
                && let Ok(connection) = call_host(port)
            {
                rehearsal(connection);
            }
            if let Ok(connection) = call_host(port) {
                return Ok(connection);
            }
        }
        loop {
            let raw = accept4(self.socket.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
            // SAFETY: accept4 has just returned it; nobody else knows it.
            let connection = unsafe { OwnedFd::from_raw_fd(raw) };
            if !self.vsock || is_host(&connection) {
                return Ok(connection);
            }
        }
    }
}

/// Connects to the host. One that does not wait there refuses at once, and connects itself when it wants to.
fn call_host(port: u32) -> io::Result<OwnedFd> {
    let socket = socket(
        AddressFamily::Vsock,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    connect(socket.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_HOST, port))?;
    Ok(socket)
}

fn is_host(connection: &OwnedFd) -> bool {
    getpeername::<VsockAddr>(connection.as_raw_fd()).is_ok_and(|peer| peer.cid() == libc::VMADDR_CID_HOST)
}

/// Accepts for ever and has each connection handled; `handle` must not block.
pub fn accept_forever(listener: &Listener, mut handle: impl FnMut(OwnedFd)) {
    loop {
        match listener.accept() {
            Ok(connection) => handle(connection),
            // No descriptors or memory: wait for some to come free.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS)
                ) =>
            {
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            // The peer gave up, or a signal came.
            Err(_) => {}
        }
    }
}
