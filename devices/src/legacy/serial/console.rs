//! The event loop's side of a serial port: input from a descriptor, and output that was stuck.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::Serial;

const WAKE: u32 = 0;
const INPUT: u32 = 1;
const OUTPUT: u32 = 2;
/// As much as the FIFO ever takes.
const READ: usize = 64;

/// Sees every byte of input before the guest does: passes it on, changes it or keeps it (`None`), say for an escape
/// sequence.
pub type InputFilter = Box<dyn FnMut(u8) -> Option<u8> + Send>;

/// Connects a serial port to the event loop.
///
/// Input is read only while the guest has room for it: what it does not read stays with whoever sends it.
pub struct Console {
    serial: Arc<Mutex<Serial>>,
    input: Option<File>,
    filter: InputFilter,
    /// False for a file or the like, which is always readable and cannot be watched.
    watchable: bool,
    watching_input: bool,
    watching_output: Option<RawFd>,
}

impl Console {
    /// A console for `serial`. `input` must not be a descriptor that somebody else watches.
    pub fn new(serial: Arc<Mutex<Serial>>, input: Option<OwnedFd>) -> Self {
        Self {
            serial,
            input: input.map(File::from),
            filter: Box::new(Some),
            watchable: true,
            watching_input: false,
            watching_output: None,
        }
    }

    /// Sets who sees input first.
    #[must_use]
    pub fn with_filter(mut self, filter: InputFilter) -> Self {
        self.filter = filter;
        self
    }

    /// Reads as much as the guest has room for; false when the input has ended.
    fn read_input(&mut self, serial: &mut Serial) -> bool {
        let Some(file) = self.input.as_mut() else {
            return false;
        };
        let mut buffer = [0; READ];
        let room = serial.input_room().min(READ);
        let Some(free) = buffer.get_mut(..room).filter(|free| !free.is_empty()) else {
            return true;
        };
        match file.read(free) {
            Ok(0) => false,
            Ok(len) => {
                let read = buffer.get(..len).unwrap_or_default();
                let passed: Vec<u8> = read.iter().filter_map(|byte| (self.filter)(*byte)).collect();
                serial.enqueue(&passed);
                true
            }
            Err(error) => matches!(
                error.kind(),
                io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
            ),
        }
    }

    /// Watches what matters now.
    fn follow(&mut self, serial: &mut Serial, ops: &mut EventOps) {
        self.follow_input(serial, ops);
        let wanted = if serial.output_pending() {
            serial.sink_fd()
        } else {
            None
        };
        if wanted == self.watching_output {
            return;
        }
        if let Some(fd) = self.watching_output.take() {
            let _ = ops.remove(output_events(fd));
        }
        if let Some(fd) = wanted {
            // A sink that cannot be watched is tried again with the guest's next byte.
            self.watching_output = ops.add(output_events(fd)).is_ok().then_some(fd);
        }
    }

    fn follow_input(&mut self, serial: &mut Serial, ops: &mut EventOps) {
        let Some(fd) = self.input.as_ref().map(AsRawFd::as_raw_fd) else {
            return;
        };
        if !self.watchable && serial.input_room() > 0 {
            if !self.read_input(serial) {
                self.input = None;
                return;
            }
            if serial.input_room() > 0 {
                // Go on in the next turn: an endless file must not hold the loop.
                let _ = serial.wake_event().write(1);
                return;
            }
        }
        let wanted = serial.input_room() > 0;
        if !wanted {
            serial.wake_when_drained();
        }
        if !self.watchable || wanted == self.watching_input {
            return;
        }
        let events = Events::with_data_raw(fd, INPUT, EventSet::IN);
        if !wanted {
            self.watching_input = ops.remove(events).is_err();
            return;
        }
        match ops.add(events) {
            Ok(()) => self.watching_input = true,
            Err(event_manager::Error::Epoll(error)) if error.errno() == libc::EPERM => {
                self.watchable = false;
                self.follow_input(serial, ops);
            }
            Err(_) => self.input = None,
        }
    }

    fn end_input(&mut self, ops: &mut EventOps) {
        if let Some(file) = self.input.take()
            && std::mem::take(&mut self.watching_input)
        {
            let _ = ops.remove(Events::with_data(&file, INPUT, EventSet::IN));
        }
    }
}

impl MutEventSubscriber for Console {
    fn process(&mut self, events: Events, ops: &mut EventOps) {
        let shared = self.serial.clone();
        let mut serial = shared.lock().unwrap_or_else(PoisonError::into_inner);
        match events.data() {
            WAKE => {
                let _ = serial.wake_event().read();
            }
            INPUT => {
                let open = self.read_input(&mut serial);
                if !open {
                    self.end_input(ops);
                }
            }
            OUTPUT => serial.flush(),
            _ => {}
        }
        self.follow(&mut serial, ops);
    }

    fn init(&mut self, ops: &mut EventOps) {
        let shared = self.serial.clone();
        let mut serial = shared.lock().unwrap_or_else(PoisonError::into_inner);
        let wake = Events::with_data(serial.wake_event().as_ref(), WAKE, EventSet::IN);
        // Without it a stuck console stays stuck; the guest runs on.
        let _ = ops.add(wake);
        self.follow(&mut serial, ops);
    }
}

fn output_events(fd: RawFd) -> Events {
    Events::with_data_raw(fd, OUTPUT, EventSet::OUT)
}
