//! From a chain to a finished request: what a disk does between taking a chain from its queue and giving it back.

use std::io;
use std::sync::Arc;

use vm_memory::GuestAddress;

use super::backend::{BlockBackend, Done, Job, Operation};
use super::buffers::GuestBuffers;
use super::flight::{Flight, Flights};
use super::incident::Reporter;
use super::metrics::BlockMetrics;
use super::request::{Kind, Limits, Request, RequestError, RequestParser, STATUS_IOERR, STATUS_OK};
use super::serial::SERIAL_SIZE;
use crate::rate_limiter::RateLimiter;
use crate::virtio::queue::{Chain, QueueMemory};

/// What an act without data weighs in a turn's budget, in bytes: waiting for a flush or making a hole takes about
/// as long as copying this much.
const WEIGHT_WITHOUT_DATA: u32 = 1 << 20;

/// What happened to a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Served {
    /// It is over and goes back to the driver.
    Done {
        /// Bytes written into it.
        len: u32,
        /// What it cost, in bytes of data.
        weight: u32,
    },
    /// The backend works on it.
    InFlight {
        /// What it cost, in bytes of data.
        weight: u32,
    },
    /// It must be put back.
    Later,
}

/// Everything of a disk but its queue.
pub(super) struct Engine {
    pub(super) id: String,
    pub(super) serial: [u8; SERIAL_SIZE],
    pub(super) backend: Box<dyn BlockBackend>,
    pub(super) limits: Limits,
    pub(super) limiter: RateLimiter,
    pub(super) metrics: BlockMetrics,
    pub(super) reporter: Reporter,
    /// The driver does not flush, so every write must be permanent by itself (virtio 1.2 §5.2.6.2).
    pub(super) durable: bool,
    pub(super) parser: RequestParser,
    pub(super) flights: Flights,
    /// Lists of buffers to be used again.
    pub(super) spare: Vec<GuestBuffers>,
}

impl Engine {
    /// Serves one chain.
    pub(super) fn serve(&mut self, memory: &Arc<QueueMemory>, chain: Chain<'_>) -> Served {
        let Some(tag) = self.flights.next_tag() else {
            count(&mut self.metrics.io_engine_throttled_events, 1);
            return Served::Later;
        };
        let head = chain.head_index();
        let parsed = self.parser.parse(memory, chain, &self.limits);
        let (request, status) = match (parsed, self.parser.status_address()) {
            (Ok(request), Some(status)) => (request, status),
            (Ok(_), None) => return self.refuse(memory, RequestError::NoStatus),
            (Err(error), _) => return self.refuse(memory, error),
        };
        let volume = self.volume(&request);
        if !self.limiter.consume_request(volume.into()) {
            count(&mut self.metrics.rate_limiter_throttled_events, 1);
            return Served::Later;
        }
        let mut buffers = self.spare.pop().unwrap_or_default();
        if let Err(error) = self.parser.gather(memory, &request, &mut buffers) {
            self.spare.push(buffers);
            return self.refuse(memory, error);
        }
        let flight = Flight {
            head,
            request,
            status,
            writable_len: self.parser.writable_len(),
        };
        let weight = self.weight(&request, volume);
        match self.execute(tag, &request, buffers) {
            Some(done) => Served::Done {
                len: self.finish(memory, &flight, done),
                weight,
            },
            None => {
                self.flights.insert(flight);
                Served::InFlight { weight }
            }
        }
    }

    /// A request in flight that is over: head of its chain and bytes written. `None` when there is none.
    pub(super) fn reap(&mut self, memory: &QueueMemory) -> Option<(u16, u32)> {
        let done = self.backend.reap()?;
        let flight = self.flights.remove(done.tag)?;
        Some((flight.head, self.finish(memory, &flight, done)))
    }

    /// Waits until nothing is in flight and drops the results: their driver is gone.
    pub(super) fn abandon(&mut self) {
        while !self.flights.is_empty() {
            self.backend.wait();
            while let Some(done) = self.backend.reap() {
                self.flights.remove(done.tag);
                self.spare.push(done.buffers);
            }
        }
        self.spare.iter_mut().for_each(GuestBuffers::release);
    }

    fn execute(&mut self, tag: u16, request: &Request, mut buffers: GuestBuffers) -> Option<Done> {
        let operation = match request.kind {
            Kind::Read => Operation::Read,
            Kind::Write => Operation::Write {
                durable: self.durable,
            },
            Kind::Flush => Operation::Flush,
            Kind::GetId => {
                let result = buffers.write(&self.serial);
                buffers.zero_rest();
                return Some(Done { tag, result, buffers });
            }
            Kind::Discard | Kind::WriteZeroes => {
                let result = self.change_ranges(request.kind);
                return Some(Done { tag, result, buffers });
            }
        };
        self.backend.submit(Job {
            tag,
            operation,
            offset: request.offset,
            buffers,
        })
    }

    fn change_ranges(&mut self, kind: Kind) -> io::Result<()> {
        for range in self.parser.ranges() {
            if kind == Kind::Discard {
                self.backend.discard(range.offset, range.len)?;
            } else {
                self.backend
                    .write_zeroes(range.offset, range.len, range.unmap, self.durable)?;
            }
            count(&mut self.metrics.discard_bytes, range.len);
        }
        Ok(())
    }

    /// Counts, tells the driver the status, and returns the bytes written into the chain.
    fn finish(&mut self, memory: &QueueMemory, flight: &Flight, done: Done) -> u32 {
        let Done {
            result, mut buffers, ..
        } = done;
        let status = match result {
            Ok(()) => {
                self.count_success(&flight.request);
                STATUS_OK
            }
            Err(error) => {
                // All of the chain counts as written, so that the driver may look at the status at its end (virtio
                // 1.2 §2.7.8.3); hence no byte of it may be left over from before.
                buffers.zero_rest();
                self.report(&flight.request, &error);
                STATUS_IOERR
            }
        };
        self.spare.push(buffers);
        write_status(memory, flight.status, status).map_or(0, |()| flight.writable_len)
    }

    /// Gives a request back that is not carried out. Its data stays as it is.
    fn refuse(&mut self, memory: &QueueMemory, error: RequestError) -> Served {
        count(&mut self.metrics.invalid_reqs_count, 1);
        let written = self
            .parser
            .status_address()
            .and_then(|address| write_status(memory, address, error.status()));
        // What counts as written begins with the first byte, but only the last one was.
        let len = if written.is_some() && self.parser.writable_len() == 1 {
            1
        } else {
            0
        };
        Served::Done { len, weight: 0 }
    }

    /// Bytes that the host may have to move. Zeroes count: not every host has a way around writing them.
    fn volume(&self, request: &Request) -> u32 {
        match request.kind {
            Kind::Read | Kind::Write => request.data_len,
            Kind::WriteZeroes => {
                let lengths = self.parser.ranges().iter().map(|range| range.len);
                u32::try_from(lengths.fold(0, u64::saturating_add)).unwrap_or(u32::MAX)
            }
            Kind::Flush | Kind::GetId | Kind::Discard => 0,
        }
    }

    /// What the request takes from its turn, in bytes of data.
    fn weight(&self, request: &Request, volume: u32) -> u32 {
        let acts = match request.kind {
            Kind::Read | Kind::Write => 0,
            Kind::Flush | Kind::GetId => 1,
            Kind::Discard | Kind::WriteZeroes => {
                u32::try_from(self.parser.ranges().len()).unwrap_or(u32::MAX)
            }
        };
        volume.max(acts.saturating_mul(WEIGHT_WITHOUT_DATA))
    }

    fn count_success(&mut self, request: &Request) {
        let metrics = &mut self.metrics;
        let bytes = u64::from(request.data_len);
        match request.kind {
            Kind::Read => {
                count(&mut metrics.read_count, 1);
                count(&mut metrics.read_bytes, bytes);
            }
            Kind::Write => {
                count(&mut metrics.write_count, 1);
                count(&mut metrics.write_bytes, bytes);
            }
            Kind::Flush => count(&mut metrics.flush_count, 1),
            Kind::Discard | Kind::WriteZeroes => count(&mut metrics.discard_count, 1),
            Kind::GetId => {}
        }
    }

    fn report(&mut self, request: &Request, error: &io::Error) {
        count(&mut self.metrics.execute_fails, 1);
        self.reporter.tell(&self.id, request, error);
    }
}

fn write_status(memory: &QueueMemory, address: GuestAddress, status: u8) -> Option<()> {
    memory.write(&[status], address).ok()
}

pub(super) fn count(counter: &mut u64, by: u64) {
    *counter = counter.saturating_add(by);
}
