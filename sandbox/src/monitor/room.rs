//! A container that runs: its streams, who is attached to it, and how it ends.

use std::fs;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use koya_proto::client::{AgentClient, ClientError};
use koya_proto::v1;

use super::output::{Output, lock};
use super::protocol::{Kind, MAX_PAYLOAD, read_frame};
use crate::container::{ContainerSpec, IdMap, Mount};
use crate::log::Stream;
use crate::network::Attached;
use crate::sandbox::Sandbox;
use crate::state::{Container, Exit};
use crate::stdio::{self, Streams, Wanted};

/// The serial of the disk that takes what containers write.
pub(super) const SCRATCH: &str = "scratch";
/// How long readers have for what a container wrote before its microVM died.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How often it is looked whether they have it.
const LOOK: Duration = Duration::from_millis(10);
/// How long removing a container in the guest may take.
const DELETION: Duration = Duration::from_secs(60);

/// The serial of the disk that holds the image of the container in a slot.
pub(super) fn image_serial(slot: usize) -> String {
    format!("image{slot}")
}

/// A container that has been started.
pub(super) struct Room {
    /// Which of the microVM's places it has.
    pub slot: usize,
    /// Its first process in the guest.
    pub pid: u32,
    id: String,
    output: Output,
    /// What it reads from, as long as it may come.
    stdin: Mutex<Option<UnixStream>>,
    /// Its output streams, to be closed when nobody reads.
    sources: Vec<(Stream, UnixStream)>,
    stdin_once: bool,
}

/// What a container finds in its microVM.
pub(super) struct Furniture {
    /// Which place it has.
    pub slot: usize,
    /// The size of its image, as a disk has it.
    pub image_bytes: u64,
    /// Its networks.
    pub attached: Attached,
    /// Its volumes.
    pub mounts: Vec<Mount>,
    /// What they are on.
    pub shares: Vec<v1::Share>,
}

/// Somebody who wants to be attached.
pub(super) struct Visitor {
    /// Unlike any other's.
    pub number: u64,
    /// His socket.
    pub socket: UnixStream,
}

impl Room {
    /// Starts a container whose image is in the microVM. What it writes waits until it is [watched](Room::watch).
    pub fn start(
        sandbox: &Sandbox,
        folder: &Path,
        container: &Container,
        furniture: &Furniture,
    ) -> Result<Self, StartRoomError> {
        let agent = sandbox.agent();
        let settings = &container.settings;
        let wanted = match settings.spec.process.terminal {
            true => Wanted::Terminal { rows: 0, columns: 0 },
            false => Wanted::Pipes {
                stdin: settings.open_stdin,
            },
        };
        let (mut named, streams) = stdio::open(&sandbox.vsock(), wanted).map_err(StartRoomError::Streams)?;
        // The monitor leaves only when nobody reads any more.
        named.hang_up = true;
        let mut room =
            Self::of(container, furniture.slot, streams, folder).map_err(StartRoomError::Streams)?;
        room.pid = agent.create(request(container, furniture, named))?;
        let started = agent
            .configure_network(&furniture.attached.guest_request())
            .and_then(|()| {
                sandbox.note_working_set();
                agent.start(&container.id)
            });
        if let Err(error) = started {
            let _ = agent.delete(&container.id, true);
            return Err(error.into());
        }
        Ok(room)
    }

    fn of(container: &Container, slot: usize, streams: Streams, folder: &Path) -> std::io::Result<Self> {
        let mut sources = Vec::new();
        let mut stdin = streams.stdin;
        if let Some(terminal) = streams.terminal {
            if container.settings.open_stdin {
                stdin = Some(terminal.try_clone()?);
            }
            sources.push((Stream::Stdout, terminal));
        }
        sources.extend(streams.stdout.map(|stream| (Stream::Stdout, stream)));
        sources.extend(streams.stderr.map(|stream| (Stream::Stderr, stream)));
        Ok(Self {
            slot,
            pid: 0,
            id: container.id.clone(),
            output: Output::open(folder, &container.settings.log),
            stdin: Mutex::new(stdin),
            sources,
            stdin_once: container.settings.stdin_once,
        })
    }

    /// Passes its output on until it has ended; how it did.
    pub fn watch(self: &Arc<Self>, agent: &AgentClient) -> Exit {
        let pumps = (0..self.sources.len()).map(|index| {
            let room = Arc::clone(self);
            thread::spawn(move || {
                if let Some((stream, source)) = room.sources.get(index) {
                    room.output.pump(source, *stream);
                }
            })
        });
        let pumps: Vec<_> = pumps.collect();
        let waited = agent.wait(&self.id.as_str().into(), None);
        let exit = match &waited {
            Ok(exit) => Exit {
                code: u8::try_from(exit.code).unwrap_or(u8::MAX),
                oom_killed: exit.oom,
                error: String::new(),
            },
            Err(error) => Exit::killed(format!("the microVM ended: {error}")),
        };
        if waited.is_err() {
            self.hang_up();
            // Who is attached is told of the end, too; but a reader who has gone to sleep does not hold up the end of
            // what is dead already.
            let late = Instant::now().checked_add(LAST_WORDS);
            while !pumps.iter().all(JoinHandle::is_finished) {
                if late.is_none_or(|late| Instant::now() >= late) {
                    self.output.leave();
                    break;
                }
                thread::sleep(LOOK);
            }
        }
        for pump in pumps {
            let _ = pump.join();
        }
        exit
    }

    /// Tells everybody who is attached how it ended.
    pub fn end(&self, exit: &Exit) {
        self.output.end(exit);
    }

    /// Sends what it writes to somebody, from now on.
    pub fn attach(&self, visitor: &Visitor) -> std::io::Result<()> {
        self.output.attach(visitor.number, visitor.socket.try_clone()?);
        Ok(())
    }

    /// Lets everybody go who is attached.
    pub fn dismiss(&self) {
        self.output.leave();
    }

    /// Takes what somebody sends who is attached, until he leaves.
    pub fn serve(&self, visitor: Visitor) {
        let Visitor { number, socket } = visitor;
        let mut buffer = vec![0; MAX_PAYLOAD];
        while let Ok(Some((kind, payload))) = read_frame(&socket, &mut buffer) {
            match kind {
                Kind::Stdin => self.feed(payload),
                Kind::StdinEnd => self.end_stdin(),
                _ => {}
            }
        }
        self.output.detach(number);
        if self.stdin_once {
            self.end_stdin();
        }
    }

    /// Gives it something to read. Waits until it is taken.
    fn feed(&self, input: &[u8]) {
        let stdin = lock(&self.stdin)
            .as_ref()
            .and_then(|stdin| stdin.try_clone().ok());
        if let Some(mut stdin) = stdin {
            // A process that has closed its input has no use for it.
            let _ = stdin.write_all(input);
        }
    }

    fn end_stdin(&self) {
        if let Some(stdin) = lock(&self.stdin).take() {
            let _ = stdin.shutdown(Shutdown::Write);
        }
    }

    /// Ends its output: a process that goes on writing gets to know that nobody reads.
    pub fn hang_up(&self) {
        for (_, source) in &self.sources {
            let _ = source.shutdown(Shutdown::Both);
        }
    }
}

/// Removes a container that has ended from its guest; with `purge`, what it wrote, too.
pub(super) fn delete(agent: &AgentClient, id: &str, purge: bool) -> Result<(), ClientError> {
    agent
        .clone()
        .with_deadline(DELETION)
        .delete_with(v1::DeleteRequest {
            id: id.to_owned(),
            force: true,
            purge,
            ..Default::default()
        })
}

/// A container cannot be started.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartRoomError {
    /// The streams of its first process.
    #[error("cannot connect the streams of the process")]
    Streams(#[source] std::io::Error),
    /// The agent refused.
    #[error(transparent)]
    Agent(#[from] ClientError),
}

fn request(container: &Container, furniture: &Furniture, stdio: v1::Stdio) -> v1::CreateRequest {
    let image = v1::Disk {
        serial: image_serial(furniture.slot),
        filesystem: "erofs".to_owned(),
        bytes: furniture.image_bytes,
        ..Default::default()
    };
    let scratch = v1::Disk {
        serial: SCRATCH.to_owned(),
        filesystem: "ext4".to_owned(),
        folder: container.id.clone(),
        ..Default::default()
    };
    let overlay = v1::Overlay {
        lower: vec![image],
        scratch: Some(scratch).into(),
        ..Default::default()
    };
    let mut root = v1::RootFilesystem::new();
    root.set_overlay(overlay);
    let settings = &container.settings;
    v1::CreateRequest {
        id: container.id.clone(),
        root: Some(root).into(),
        config: spec(container, furniture).to_json().to_string().into_bytes(),
        stdio: Some(stdio).into(),
        user: settings.user.clone(),
        init: settings.init,
        shares: furniture.shares.clone(),
        files: furniture.attached.files(),
        ..Default::default()
    }
}

/// What the container is in this slot: a system container's users are those of no other room.
fn spec(container: &Container, furniture: &Furniture) -> ContainerSpec {
    let mut spec = container.settings.spec.clone();
    container.hostname().clone_into(&mut spec.hostname);
    if spec.process.system && !spec.process.privileged {
        spec.id_map = u32::try_from(furniture.slot).ok().map(IdMap::of_room);
    }
    spec.mounts.extend(furniture.mounts.iter().cloned());
    spec
}

/// Bytes of a container's image, as a disk of whole sectors has them.
pub(super) fn disk_bytes(path: &Path) -> std::io::Result<u64> {
    Ok(fs::metadata(path)?.len() & !511)
}
