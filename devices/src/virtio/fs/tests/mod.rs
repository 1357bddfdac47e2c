#![allow(clippy::arithmetic_side_effects)]

mod failures;
mod lifecycle;
mod program;

use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{fs::File, io};

use event_manager::{EventManager, SubscriberOps};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, GuestAddress, GuestRegionMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::tempfile::TempFile;

use self::program::{FakeProgram, Habits};
use super::{Fs, Program, ProgramError};
use crate::interrupt::InterruptLine;
use crate::memory::GuestRam;
use crate::virtio::Adaptor;
use crate::virtio::mmio::{F_EVENT_IDX, MmioTransport, MmioWindow};
use crate::virtio::testing::{MockDoorbells, MockDriver, MockQueue};

/// Short enough for a test of patience, long enough for a busy machine to answer in.
const PATIENCE: Duration = Duration::from_millis(400);

/// An interrupt line made of an event, as KVM's are.
struct EventLine(EventFd);

impl InterruptLine for EventLine {
    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }

    fn hand_over(&self) -> Option<&EventFd> {
        Some(&self.0)
    }
}

/// 4 MiB of memory with a descriptor, of which the first is not the guest's.
fn shared_memory() -> GuestRam {
    let (size, offset) = (4 << 20, 1 << 20);
    let file: File = TempFile::new().unwrap().into_file();
    file.set_len(offset + u64::try_from(size).unwrap()).unwrap();
    let mapping = MmapRegionBuilder::new_with_bitmap(size, None)
        .with_file_offset(FileOffset::new(file, offset))
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(libc::MAP_SHARED)
        .build()
        .unwrap();
    GuestRam::from_regions(vec![GuestRegionMmap::new(mapping, GuestAddress(0)).unwrap()]).unwrap()
}

/// A device with its program, on an event loop.
struct Bench {
    manager: EventManager<Adaptor<Fs>>,
    transport: Arc<Mutex<MmioTransport<Fs>>>,
    doorbells: MockDoorbells,
    line: Arc<EventLine>,
    memory: GuestRam,
    queues: [MockQueue; 2],
    program: FakeProgram,
}

fn connect(habits: Habits) -> (Result<Program, ProgramError>, FakeProgram) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let fake = FakeProgram::run(theirs, habits);
    (Program::over(ours, PATIENCE, PATIENCE), fake)
}

fn bench(habits: Habits) -> Bench {
    bench_with(habits, shared_memory())
}

fn bench_with(habits: Habits, memory: GuestRam) -> Bench {
    let (program, fake) = connect(habits);
    let line = Arc::new(EventLine(EventFd::new(EFD_NONBLOCK).unwrap()));
    let doorbells = MockDoorbells::default();
    let transport = MmioTransport::new(
        Fs::new("source code", program.unwrap()),
        memory.clone(),
        line.clone(),
        Box::new(doorbells.clone()),
    );
    let transport = Arc::new(Mutex::new(transport.unwrap()));
    let mut manager = EventManager::new().unwrap();
    manager.add_subscriber(Adaptor::new(transport.clone()));
    Bench {
        manager,
        transport,
        doorbells,
        line,
        queues: [0x1000, 0x10_0000].map(|base| MockQueue::new(&memory, base, 128)),
        memory,
        program: fake,
    }
}

impl Bench {
    /// Plays the driver with registers.
    fn drive<T>(&self, act: impl FnOnce(&mut MockDriver<'_>) -> T) -> T {
        act(&mut MockDriver(&mut MmioWindow::new(self.transport.clone())))
    }

    /// From reset to DRIVER_OK; returns the status then.
    fn start(&self) -> u32 {
        let [first, second] = &self.queues;
        self.drive(|driver| driver.start(F_EVENT_IDX, &[first, second]))
    }

    /// Runs the event loop until nothing happens any more; returns how much did.
    fn turn(&mut self) -> usize {
        let mut events = 0;
        loop {
            match self.manager.run_with_timeout(50).unwrap() {
                0 => return events,
                count => events += count,
            }
            assert!(events < 1000, "the event loop spins");
        }
    }
}
