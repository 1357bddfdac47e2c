//! The program behind the device, as its vhost-user frontend sees it.
//!
//! Everything that waits for an answer is under a deadline. The `vhost` crate has none, and takes a socket's own timeout
//! for a reason to go on waiting; so a second thread ends the connection when the time is up, for as long as a
//! conversation lasts. There are few: one to connect, one at each start and reset of the device.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use vhost::vhost_user::message::{
    VhostUserHeaderFlag, VhostUserProtocolFeatures as Protocol, VhostUserVirtioFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{GuestAddress, GuestMemoryBackend};

use crate::memory::GuestRam;
use crate::virtio::device::Activation;
use crate::virtio::mmio::F_VERSION_1;
use crate::virtio::queue::ActiveQueue;
use crate::virtio::vsock::socket;

/// How long the program may take to say what it can do; it may have just been started.
pub const START_TIME: Duration = Duration::from_secs(10);
/// How long the program may take over a start or a reset of the device. A processor of the guest waits for it, and so
/// may whoever needs the device's state.
pub const ANSWER_TIME: Duration = Duration::from_secs(2);
/// Queues of the device.
const QUEUES: u64 = 2;
/// VHOST_USER_F_PROTOCOL_FEATURES: extensions can be negotiated, and rings enabled one by one.
const PROTOCOL_FEATURES: u64 = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();

/// The program behind a device cannot be used, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// Nobody listens.
    #[error("cannot connect to the socket {path:?}, where a program like virtiofsd must be listening")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The deadline cannot be watched.
    #[error("cannot watch the time of a conversation")]
    Watch(#[source] io::Error),
    /// A message of the protocol failed.
    #[error("the program behind the socket did not {act}")]
    Refused {
        /// What it was asked to.
        act: &'static str,
        /// Why, or what came instead.
        source: vhost::Error,
    },
    /// It does not answer.
    #[error("the program behind the socket did not answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// It cannot do what is needed.
    #[error("the program behind the socket lacks {0}")]
    Lacks(&'static str),
    /// It serves fewer queues than the device has.
    #[error("the program behind the socket serves {0} queues, and a file system device has {QUEUES}")]
    Queues(u64),
    /// Its process ended, or it hung up.
    #[error("the program has closed its socket")]
    Closed,
    /// It spoke without having been asked.
    #[error("the program sent a message that nobody had asked for")]
    Unasked,
    /// It failed before.
    #[error("the connection to the program was lost earlier")]
    Lost,
    /// Guest memory has no descriptor to share.
    #[error("guest memory is private to the monitor, so that no program can serve a device")]
    PrivateMemory,
    /// A ring is not in guest memory.
    #[error("queue {0} is not in guest memory")]
    Ring(usize),
    /// The interrupt line is no event.
    #[error("the interrupt of the device cannot be raised by another program")]
    Interrupt,
}

impl ProgramError {
    fn refused(act: &'static str) -> impl FnOnce(vhost::Error) -> Self {
        move |source| Self::Refused { act, source }
    }
}

/// A connected program. It serves until it is dropped, or fails.
pub struct Program {
    frontend: Frontend,
    /// The same connection.
    socket: UnixStream,
    features: u64,
    answer_time: Duration,
    lost: bool,
}

impl Program {
    /// Connects to the program that listens at `path`, and asks what it can do.
    ///
    /// # Errors
    /// [`ProgramError`], at most [`START_TIME`] later.
    pub fn connect(path: &Path) -> Result<Self, ProgramError> {
        let failed = |source| ProgramError::Connect {
            path: path.to_owned(),
            source,
        };
        let socket = socket::unconnected().map_err(failed)?;
        socket::connect(&socket, path).map_err(failed)?;
        socket.set_nonblocking(false).map_err(failed)?;
        Self::over(socket, START_TIME, ANSWER_TIME)
    }

    /// Asks the program at the other end of `socket`.
    pub(super) fn over(
        socket: UnixStream,
        start_time: Duration,
        answer_time: Duration,
    ) -> Result<Self, ProgramError> {
        let own = socket.try_clone().map_err(ProgramError::Watch)?;
        let mut program = Self {
            frontend: Frontend::from_stream(own, QUEUES),
            socket,
            features: 0,
            answer_time,
            lost: false,
        };
        program.features = program.converse(start_time, negotiate)?;
        Ok(program)
    }

    /// The virtio features that the program supports.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Lets the program serve the queues.
    pub(super) fn start(&mut self, activation: &Activation) -> Result<(), ProgramError> {
        self.converse(self.answer_time, |frontend| {
            frontend
                .set_features(activation.features | PROTOCOL_FEATURES)
                .map_err(ProgramError::refused("take the features that the driver chose"))?;
            share(frontend, &activation.memory)?;
            for (index, queue) in activation.queues.iter().enumerate() {
                give(frontend, &activation.memory, index, queue)?;
            }
            Ok(())
        })
    }

    /// Takes the queues back. A program that does not give them back is a lost one.
    pub(super) fn stop(&mut self) {
        let stopped = self.converse(self.answer_time, |frontend| {
            for index in 0..usize::try_from(QUEUES).unwrap_or(0) {
                frontend
                    .get_vring_base(index)
                    .map_err(ProgramError::refused("give a queue back"))?;
            }
            Ok(())
        });
        match stopped {
            Ok(()) | Err(ProgramError::Lost) => {}
            Err(error) => log::warn!("virtio-fs: {error}"),
        }
    }

    /// The socket may have something to say while nobody has asked: only that it is closed makes sense then.
    pub(super) fn look(&mut self) -> Result<(), ProgramError> {
        let error = match socket::peek(&self.socket, &mut [0]) {
            // What made the socket readable was the answer to a question that somebody has read meanwhile.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Ok(1..) => ProgramError::Unasked,
            Ok(0) | Err(_) => ProgramError::Closed,
        };
        self.lose();
        Err(error)
    }

    fn lose(&mut self) {
        self.lost = true;
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Speaks with the program for at most `limit`. After an error nobody knows where in the conversation it is, so that
    /// there will be no other.
    fn converse<T>(
        &mut self,
        limit: Duration,
        talk: impl FnOnce(&mut Frontend) -> Result<T, ProgramError>,
    ) -> Result<T, ProgramError> {
        if self.lost {
            return Err(ProgramError::Lost);
        }
        let (frontend, socket) = (&mut self.frontend, &self.socket);
        let result = within(socket, limit, || talk(frontend));
        if result.is_err() {
            self.lose();
        }
        result
    }
}

impl AsRawFd for Program {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Runs `talk`, and ends the connection under it when it takes longer than `limit`.
fn within<T>(
    socket: &UnixStream,
    limit: Duration,
    talk: impl FnOnce() -> Result<T, ProgramError>,
) -> Result<T, ProgramError> {
    let late = AtomicBool::new(false);
    thread::scope(|scope| {
        let (done, end) = mpsc::channel::<()>();
        let watch = || {
            if end.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                late.store(true, Ordering::SeqCst);
                let _ = socket.shutdown(Shutdown::Both);
            }
            drop(end);
        };
        thread::Builder::new()
            .name("fs-deadline".to_owned())
            .spawn_scoped(scope, watch)
            .map_err(ProgramError::Watch)?;
        let result = talk();
        drop(done);
        match result {
            Err(_) if late.load(Ordering::SeqCst) => Err(ProgramError::Silent(limit)),
            result => result,
        }
    })
}

/// Returns the features of the program.
fn negotiate(frontend: &mut Frontend) -> Result<u64, ProgramError> {
    let features = frontend
        .get_features()
        .map_err(ProgramError::refused("tell its features"))?;
    if features & F_VERSION_1 == 0 {
        return Err(ProgramError::Lacks("virtio 1 (VIRTIO_F_VERSION_1)"));
    }
    if features & PROTOCOL_FEATURES == 0 {
        return Err(ProgramError::Lacks(
            "protocol features (VHOST_USER_F_PROTOCOL_FEATURES)",
        ));
    }
    let offered = frontend
        .get_protocol_features()
        .map_err(ProgramError::refused("tell its protocol features"))?;
    let wanted = offered & (Protocol::MQ | Protocol::REPLY_ACK);
    frontend
        .set_protocol_features(wanted)
        .map_err(ProgramError::refused("take the protocol features"))?;
    if wanted.contains(Protocol::REPLY_ACK) {
        // An error is then heard of where it happens.
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    }
    if wanted.contains(Protocol::MQ) {
        let queues = frontend
            .get_queue_num()
            .map_err(ProgramError::refused("tell how many queues it serves"))?;
        if queues < QUEUES {
            return Err(ProgramError::Queues(queues));
        }
    }
    frontend
        .set_owner()
        .map_err(ProgramError::refused("accept its owner"))?;
    Ok(features)
}

/// Gives the program the guest's memory.
fn share(frontend: &Frontend, memory: &GuestRam) -> Result<(), ProgramError> {
    let regions = memory.iter().map(VhostUserMemoryRegionInfo::from_guest_region);
    let regions = regions
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| ProgramError::PrivateMemory)?;
    frontend
        .set_mem_table(&regions)
        .map(drop)
        .map_err(ProgramError::refused("map the guest's memory"))
}

/// Gives the program a queue.
fn give(
    frontend: &mut Frontend,
    memory: &GuestRam,
    index: usize,
    queue: &ActiveQueue,
) -> Result<(), ProgramError> {
    let parts = queue.hand_over().ok_or(ProgramError::Interrupt)?;
    // Addresses of rings are those of this process, which the program translates by the memory's description.
    let host = |address: GuestAddress| {
        let pointer = memory
            .get_host_address(address)
            .map_err(|_| ProgramError::Ring(index))?;
        Ok(pointer.expose_provenance() as u64)
    };
    let rings = VringConfigData {
        queue_max_size: queue.size(),
        queue_size: queue.size(),
        flags: 0,
        desc_table_addr: host(parts.descriptors)?,
        used_ring_addr: host(parts.used)?,
        avail_ring_addr: host(parts.available)?,
        log_addr: None,
    };
    let mut hand_over = || {
        frontend.set_vring_num(index, queue.size())?;
        frontend.set_vring_addr(index, &rings)?;
        frontend.set_vring_base(index, parts.next_available)?;
        frontend.set_vring_call(index, parts.interrupt)?;
        frontend.set_vring_kick(index, parts.doorbell)?;
        frontend.set_vring_enable(index, true)
    };
    hand_over().map_err(ProgramError::refused("take a queue"))
}
