//! A network device between a mock driver and a network in memory.

#![allow(clippy::arithmetic_side_effects)]

mod lifecycle;
mod misuse;
mod receive;
mod tap;
mod transmit;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex};

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_MRG_RXBUF,
};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;
use crate::memory::GuestRam;
use crate::rate_limiter::RateLimiter;
use crate::virtio::device::{Activation, VirtioDevice};
use crate::virtio::testing::{Buffer, CountingLine, MockQueue, guest_memory};

const MAC: MacAddress = [0x06, 0, 0xc0, 0xa8, 0, 2];
const MERGE: u64 = 1 << VIRTIO_NET_F_MRG_RXBUF;
const COMMON: u64 =
    MERGE | 1 << VIRTIO_NET_F_CSUM | 1 << VIRTIO_NET_F_HOST_TSO4 | 1 << VIRTIO_NET_F_GUEST_CSUM;
const EVENT_INDEX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;
const MEMORY: usize = 32 << 20;

/// What a backend does before it sends or receives.
type Hook = Box<dyn FnMut() + Send>;

#[derive(Default)]
struct Cable {
    incoming: VecDeque<Vec<u8>>,
    sent: Vec<Vec<u8>>,
    offloads: Vec<Offloads>,
    receive_error: Option<i32>,
    send_error: Option<i32>,
    before_send: Option<Hook>,
    before_receive: Option<Hook>,
}

/// A network in memory. Clones share it.
#[derive(Clone)]
struct Wire(Arc<Mutex<Cable>>, Arc<EventFd>);

impl Wire {
    fn new() -> Self {
        Self(Arc::default(), Arc::new(EventFd::new(EFD_NONBLOCK).unwrap()))
    }

    fn cable<R>(&self, act: impl FnOnce(&mut Cable) -> R) -> R {
        act(&mut self.0.lock().unwrap())
    }

    fn offer(&self, frame: &[u8]) {
        self.cable(|cable| cable.incoming.push_back(frame.to_vec()));
    }

    fn waiting(&self) -> usize {
        self.cable(|cable| cable.incoming.len())
    }

    fn take_sent(&self) -> Vec<Vec<u8>> {
        self.cable(|cable| std::mem::take(&mut cable.sent))
    }
}

impl NetBackend for Wire {
    fn fd(&self) -> RawFd {
        self.1.as_raw_fd()
    }

    fn set_offloads(&mut self, offloads: Offloads) -> io::Result<()> {
        self.cable(|cable| cable.offloads.push(offloads));
        Ok(())
    }

    fn receive(&mut self, into: &Scatter<'_>) -> io::Result<usize> {
        assert!(into.pieces().len() <= 1024, "readv takes no more");
        self.cable(|cable| {
            if let Some(error) = cable.receive_error {
                return Err(io::Error::from_raw_os_error(error));
            }
            if let Some(hook) = &mut cable.before_receive {
                hook();
            }
            let frame = cable.incoming.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
            Ok(into.write(&frame))
        })
    }

    fn send(&mut self, frame: &Gather<'_>) -> io::Result<()> {
        assert!(frame.pieces().len() <= 1024, "writev takes no more");
        self.cable(|cable| {
            if let Some(hook) = &mut cable.before_send {
                hook();
            }
            let mut bytes = vec![0; 70_000];
            let len = frame.read(&mut bytes);
            bytes.truncate(len);
            match cable.send_error {
                Some(error) => return Err(io::Error::from_raw_os_error(error)),
                None => cable.sent.push(bytes),
            }
            Ok(())
        })
    }
}

/// A device, its driver, its network and its event loop.
struct Rig {
    net: Net<Wire>,
    wire: Wire,
    memory: GuestRam,
    line: Arc<CountingLine>,
    rx: MockQueue,
    tx: MockQueue,
    bells: [Arc<EventFd>; 2],
    event_index: bool,
}

fn config(mac: Option<MacAddress>) -> NetConfig {
    NetConfig {
        id: "eth0".to_owned(),
        mac,
        mtu: None,
        rx_limiter: RateLimiter::default(),
        tx_limiter: RateLimiter::default(),
    }
}

impl Rig {
    fn new(features: u64) -> Self {
        Self::with(config(Some(MAC)), features, 256)
    }

    fn with(config: NetConfig, features: u64, size: u16) -> Self {
        Self::on(guest_memory(MEMORY), config, features, size)
    }

    fn on(memory: GuestRam, config: NetConfig, features: u64, size: u16) -> Self {
        let wire = Wire::new();
        let net = Net::new(config, wire.clone()).unwrap();
        let rx = MockQueue::new(&memory, 0x1000, size);
        let tx = MockQueue::new(&memory, 0x100_0000, size);
        let line = CountingLine::shared();
        let bells = [0, 1].map(|_| Arc::new(EventFd::new(EFD_NONBLOCK).unwrap()));
        let mut rig = Self {
            net,
            wire,
            memory,
            line,
            rx,
            tx,
            bells,
            event_index: features & EVENT_INDEX != 0,
        };
        rig.activate(features);
        rig
    }

    /// Says DRIVER_OK with the queues as they are laid out.
    fn activate(&mut self, features: u64) {
        let (rx, rx_bell) = self.rx.activate(self.line.clone(), self.event_index);
        let (tx, tx_bell) = self.tx.activate(self.line.clone(), self.event_index);
        self.bells = [rx_bell, tx_bell];
        let activation = Activation {
            memory: self.memory.clone(),
            queues: vec![rx, tx],
            features,
        };
        self.net.activate(activation).unwrap();
    }

    /// Runs the event loop until it would sleep. Returns how many events it handled.
    fn settle(&mut self) -> usize {
        let mut handled = 0;
        while self.turn() {
            handled += 1;
            assert!(handled < 100_000, "the event loop never sleeps");
        }
        handled
    }

    fn turn(&mut self) -> bool {
        let mut any = false;
        for index in [RX, TX] {
            if self.bells[index].read().is_ok() {
                any = true;
                self.net.process_queue(index).unwrap();
            }
        }
        any
    }

    /// Rings a doorbell and runs the event loop.
    fn ring(&mut self, index: usize) {
        self.bells[index].write(1).unwrap();
        self.settle();
    }

    /// The backend became readable.
    fn arrive(&mut self) {
        self.net.process_backend(0, event_manager::EventSet::IN).unwrap();
        self.settle();
    }

    fn add_rx(&mut self, lens: &[usize]) -> Vec<Buffer> {
        let buffers: Vec<_> = lens.iter().map(|len| self.rx.writable(*len)).collect();
        for buffer in &buffers {
            self.rx.add(&[*buffer]);
        }
        buffers
    }

    fn send(&mut self, frame: &[u8]) {
        let buffer = self.tx.readable(frame);
        self.tx.add(&[buffer]);
        self.ring(TX);
    }

    fn counters(&mut self) -> NetMetrics {
        use crate::state::Metered;
        self.net.take_metrics()
    }
}

/// A frame of `len` bytes, virtio header included, from `source`.
fn frame_from(source: MacAddress, len: usize, seed: u8) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len)
        .map(|at| {
            (at as u8)
                .wrapping_mul(7)
                .wrapping_add((at >> 8) as u8)
                .wrapping_add(seed)
        })
        .collect();
    frame[..12].fill(0);
    frame[18..24].copy_from_slice(&source);
    frame
}

fn frame(len: usize, seed: u8) -> Vec<u8> {
    frame_from(MAC, len, seed)
}
