//! A guest in memory against a disk in a file, with both engines.

#![allow(clippy::arithmetic_side_effects)]

mod asynchronous;
mod config;
mod host;
mod limits;
mod malformed;
mod misuse;
mod open;
mod requests;
mod snapshot;
mod transport;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use event_manager::EventSet;
use vm_memory::GuestAddress;
use vmm_sys_util::tempfile::TempFile;

use super::backend::BlockBackend;
use super::{Block, BlockConfig, CacheMode, FileBackend, UringBackend, config as features};
use crate::memory::GuestRam;
use crate::state::Metered;
use crate::virtio::testing::{Buffer, CountingLine, MockQueue, guest_memory, tracked_memory};
use crate::virtio::{Activation, VirtioDevice};

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

/// Sectors of the test disk.
const SECTORS: u64 = 64;
const MEMORY: usize = 8 << 20;
/// Where the queue lies: buffers can also be put below.
const QUEUE_BASE: u64 = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Engine {
    Sync,
    Async,
}

const ENGINES: [Engine; 2] = [Engine::Sync, Engine::Async];

impl Engine {
    fn open(self, path: &Path, read_only: bool) -> Box<dyn BlockBackend> {
        match self {
            Self::Sync => Box::new(FileBackend::open(path, read_only).unwrap()),
            Self::Async => Box::new(UringBackend::open(path, read_only).unwrap()),
        }
    }
}

/// What byte `position` of the test disk holds at first.
fn pattern(position: u64) -> u8 {
    (position % 251) as u8 ^ (position / 512) as u8
}

fn pattern_at(offset: u64, len: usize) -> Vec<u8> {
    (offset..).take(len).map(pattern).collect()
}

/// A file of `sectors` sectors of [`pattern`].
fn disk_file(sectors: u64) -> TempFile {
    fill(TempFile::new().unwrap(), sectors)
}

fn fill(file: TempFile, sectors: u64) -> TempFile {
    let len = usize::try_from(sectors * 512).unwrap();
    file.as_file().write_all_at(&pattern_at(0, len), 0).unwrap();
    file
}

fn header(request_type: u32, sector: u64) -> Vec<u8> {
    let mut header = request_type.to_le_bytes().to_vec();
    header.extend([0; 4]);
    header.extend(sector.to_le_bytes());
    header
}

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    let mut range = sector.to_le_bytes().to_vec();
    range.extend(sectors.to_le_bytes());
    range.extend(flags.to_le_bytes());
    range
}

/// What a request left behind.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    /// Bytes the device says it wrote.
    len: u32,
    /// All writable bytes, the status last.
    written: Vec<u8>,
}

impl Outcome {
    fn status(&self) -> u8 {
        *self.written.last().unwrap()
    }

    fn data(&self) -> &[u8] {
        &self.written[..self.written.len() - 1]
    }
}

/// A disk, the driver of its queue and the file behind it.
struct Machine {
    block: Block,
    queue: MockQueue,
    line: Arc<CountingLine>,
    memory: GuestRam,
    file: TempFile,
}

struct Options {
    engine: Engine,
    read_only: bool,
    config: BlockConfig,
    refused_features: u64,
    sectors: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            engine: Engine::Sync,
            read_only: false,
            config: BlockConfig {
                id: "rootfs".into(),
                cache: CacheMode::Writeback,
                ..Default::default()
            },
            refused_features: features::F_EVENT_IDX,
            sectors: SECTORS,
        }
    }
}

impl Machine {
    fn new(options: Options) -> Self {
        let file = disk_file(options.sectors);
        let backend = options.engine.open(file.as_path(), options.read_only);
        Self::with_backend(options, backend, file)
    }

    fn with_engine(engine: Engine) -> Self {
        Self::new(Options {
            engine,
            ..Default::default()
        })
    }

    fn with_backend(options: Options, backend: Box<dyn BlockBackend>, file: TempFile) -> Self {
        let memory = guest_memory(MEMORY);
        let block = Block::new(options.config, backend).unwrap();
        let queue = MockQueue::new(&memory, QUEUE_BASE, 256);
        let mut machine = Self {
            block,
            queue,
            line: CountingLine::shared(),
            memory,
            file,
        };
        machine.activate(options.refused_features);
        machine
    }

    fn activate(&mut self, refused_features: u64) {
        let features = self.block.features() & !refused_features;
        let event_index = features & features::F_EVENT_IDX != 0;
        let (queue, _doorbell) = self.queue.activate(self.line.clone(), event_index);
        let activation = Activation {
            memory: self.memory.clone(),
            queues: vec![queue],
            features,
        };
        self.block.activate(activation).unwrap();
    }

    fn path(&self) -> PathBuf {
        self.file.as_path().to_owned()
    }

    /// What the host finds in the file.
    fn disk(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.file.as_file().read_exact_at(&mut data, offset).unwrap();
        data
    }

    fn disk_is_untouched(&self) -> bool {
        let len = self.file.as_file().metadata().unwrap().len();
        self.disk(0, usize::try_from(len).unwrap()) == pattern_at(0, usize::try_from(len).unwrap())
    }

    /// Rings the doorbell and serves backend events until `count` chains have come back.
    fn serve(&mut self, count: usize) -> Vec<crate::virtio::testing::Used> {
        self.block.process_queue(0).unwrap();
        let mut used = self.queue.used();
        while used.len() < count {
            self.serve_event();
            used.extend(self.queue.used());
        }
        assert_eq!(used.len(), count);
        used
    }

    /// Waits for a backend event and serves it.
    fn serve_event(&mut self) {
        let events = self.block.backend_events();
        let mut polled: Vec<_> = events
            .iter()
            .map(|event| libc::pollfd {
                fd: event.fd,
                events: libc::POLLIN,
                revents: 0,
            })
            .collect();
        // SAFETY: the vector holds as many entries as it says.
        let ready = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, 10_000) };
        assert!(ready > 0, "nothing happened in ten seconds");
        for (event, polled) in events.iter().zip(polled) {
            if polled.revents != 0 {
                self.block.process_backend(event.token, EventSet::IN).unwrap();
            }
        }
    }

    /// Sends the chain `buffers` and waits for its end.
    fn send(&mut self, buffers: &[Buffer]) -> Outcome {
        let head = self.queue.add(buffers);
        let used = self.serve(1)[0];
        assert_eq!(used.head, head);
        let written = buffers
            .iter()
            .filter(|buffer| buffer.writable)
            .flat_map(|buffer| self.queue.contents(*buffer));
        Outcome {
            len: used.len,
            written: written.collect(),
        }
    }

    /// A request with three descriptors at most, as drivers usually send it.
    fn request(&mut self, request_type: u32, sector: u64, data_out: &[u8], data_in: usize) -> Outcome {
        let mut buffers = vec![self.queue.readable(&header(request_type, sector))];
        if !data_out.is_empty() {
            buffers.push(self.queue.readable(data_out));
        }
        if data_in > 0 {
            buffers.push(self.queue.writable(data_in));
        }
        buffers.push(self.queue.writable(1));
        self.send(&buffers)
    }

    fn read(&mut self, sector: u64, len: usize) -> Outcome {
        self.request(IN, sector, &[], len)
    }

    fn write(&mut self, sector: u64, data: &[u8]) -> Outcome {
        self.request(OUT, sector, data, 0)
    }

    /// Cuts the file behind the device's back.
    fn truncate(&self, len: u64) {
        self.file.as_file().set_len(len).unwrap();
    }
}
