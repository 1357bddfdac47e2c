//! A socket device between a mock driver and real sockets in a folder of its own.

#![allow(clippy::arithmetic_side_effects)]

mod connect;
mod lifecycle;
mod limits;
mod malformed;
mod misuse;
mod stream;

use std::collections::{HashMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::RawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use event_manager::EventSet;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::tempdir::TempDir;

use super::hub::Hub;
use super::packet::{HEADER_LEN, HOST_CID, Header, TYPE_STREAM, op, shutdown};
use super::*;
use crate::memory::GuestRam;
use crate::state::Metered;
use crate::virtio::device::{Activation, VirtioDevice};
use crate::virtio::testing::{Buffer, CountingLine, MockQueue, guest_memory};

const CID: u32 = 3;
const MEMORY: usize = 32 << 20;
const QUEUES: [u64; 3] = [0x10_0000, 0x180_0000, 0x1000];
/// What Linux gives for receiving: a page, less what its own structures take.
const RX_BUFFER: usize = 3776;
/// Longer than anything here should take, on any host.
const PATIENCE: Duration = Duration::from_secs(20);

/// A packet as the guest sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Packet {
    header: Header,
    data: Vec<u8>,
}

/// A device, its driver, its folder of sockets and its event loop.
struct Rig {
    vsock: Vsock,
    folder: TempDir,
    memory: GuestRam,
    line: Arc<CountingLine>,
    queues: [MockQueue; 3],
    bells: [Arc<EventFd>; 3],
    /// Chains that the driver has made available on each queue.
    added: [u16; 3],
    event_index: bool,
    rx_buffers: HashMap<u16, Buffer>,
    tx_slots: Vec<u64>,
    sent: usize,
    inbox: VecDeque<Packet>,
}

fn folder() -> TempDir {
    TempDir::new_with_prefix("/tmp/koya-vsock-").unwrap()
}

fn config(folder: &TempDir) -> VsockConfig {
    VsockConfig {
        guest_cid: CID,
        uds_path: folder.as_path().join("v.sock"),
    }
}

fn lay_out(memory: &GuestRam) -> [MockQueue; 3] {
    QUEUES.map(|base| MockQueue::new(memory, base, 256))
}

impl Rig {
    /// A device in use, with plenty of receive buffers.
    fn new() -> Self {
        let mut rig = Self::with_event_index(false);
        rig.add_rx(200, RX_BUFFER);
        rig
    }

    /// A device in use, without buffers yet.
    fn with_event_index(event_index: bool) -> Self {
        let folder = folder();
        let vsock = Vsock::new(config(&folder)).unwrap();
        Self::around(vsock, folder, event_index)
    }

    fn around(vsock: Vsock, folder: TempDir, event_index: bool) -> Self {
        let memory = guest_memory(MEMORY);
        let queues = lay_out(&memory);
        let mut rig = Self {
            vsock,
            folder,
            memory,
            line: CountingLine::shared(),
            queues,
            bells: [0, 1, 2].map(|_| Arc::new(EventFd::new(EFD_NONBLOCK).unwrap())),
            added: [0; 3],
            event_index,
            rx_buffers: HashMap::new(),
            tx_slots: Vec::new(),
            sent: 0,
            inbox: VecDeque::new(),
        };
        rig.activate();
        rig
    }

    /// Says DRIVER_OK with the queues as they are laid out.
    fn activate(&mut self) {
        let parts = self
            .queues
            .iter()
            .map(|queue| queue.activate(self.line.clone(), self.event_index));
        let (queues, bells): (Vec<_>, Vec<_>) = parts.unzip();
        self.bells = bells.try_into().unwrap();
        self.vsock
            .activate(Activation {
                memory: self.memory.clone(),
                queues,
                features: 0,
            })
            .unwrap();
    }

    /// Resets the device and starts over with empty queues.
    fn restart(&mut self) {
        self.vsock.reset();
        self.queues = lay_out(&self.memory);
        self.added = [0; 3];
        self.rx_buffers.clear();
        self.tx_slots.clear();
        self.inbox.clear();
        self.activate();
        self.add_rx(200, RX_BUFFER);
    }

    fn path(&self) -> PathBuf {
        self.folder.as_path().join("v.sock")
    }

    /// Makes chains of single buffers available for receiving.
    fn add_rx(&mut self, count: usize, len: usize) {
        for _ in 0..count {
            let buffer = self.queues[RX].writable(len);
            self.give_rx(buffer);
        }
    }

    fn give_rx(&mut self, buffer: Buffer) {
        let head = self.queues[RX].add(&[buffer]);
        self.rx_buffers.insert(head, buffer);
        self.announce(RX);
    }

    /// Rings the doorbell for a chain that was added, if the device wants to hear of it.
    fn announce(&mut self, index: usize) {
        let queue = &self.queues[index];
        self.added[index] = self.added[index].wrapping_add(1);
        let wanted = if self.event_index {
            self.added[index].wrapping_sub(queue.avail_event()) == 1
        } else {
            !queue.no_notify()
        };
        if wanted {
            self.bells[index].write(1).unwrap();
        }
    }

    /// One round of the event loop; false if there was nothing to do.
    fn turn(&mut self) -> bool {
        let mut any = false;
        for index in [RX, TX, EVENT] {
            if self.bells[index].read().is_ok() {
                any = true;
                self.vsock.process_queue(index).unwrap();
            }
        }
        let backend = self.vsock.backend_events()[0];
        if readable(backend.fd, 0) {
            any = true;
            self.vsock.process_backend(backend.token, EventSet::IN).unwrap();
        }
        any
    }

    /// Runs the event loop until it would sleep, then lets the guest take what it was given.
    fn settle(&mut self) {
        self.sleep_after(100_000);
        self.collect();
        self.sleep_after(100_000);
    }

    fn sleep_after(&mut self, most: usize) {
        for _ in 0..most {
            if !self.turn() {
                return;
            }
        }
        panic!("the event loop never sleeps");
    }

    /// The guest takes packets and gives their buffers back.
    fn collect(&mut self) {
        for used in self.queues[RX].used() {
            let buffer = self.rx_buffers.remove(&used.head).unwrap();
            let bytes = self.queues[RX].contents(buffer);
            if used.len > 0 {
                let (header, data) = bytes[..used.len as usize].split_first_chunk().unwrap();
                let header = Header::decode(header);
                assert_eq!(header.len as usize, data.len(), "{header:?}");
                assert_eq!((header.src_cid, header.dst_cid), (HOST_CID, CID.into()));
                self.inbox.push_back(Packet {
                    header,
                    data: data.to_vec(),
                });
            }
            self.give_rx(buffer);
        }
    }

    /// Runs the event loop until the guest has a packet, and takes it.
    fn next(&mut self) -> Packet {
        let end = Instant::now() + PATIENCE;
        loop {
            self.settle();
            if let Some(packet) = self.inbox.pop_front() {
                return packet;
            }
            assert!(Instant::now() < end, "the guest hears nothing");
            readable(self.vsock.backend_events()[0].fd, 10);
        }
    }

    /// The next packet, which must be an `op`.
    fn expect(&mut self, op: u16) -> Packet {
        let packet = self.next();
        assert_eq!(packet.header.op, op, "{:?}", packet.header);
        packet
    }

    /// The next packet that tells more than credit, which must be an `op`.
    fn expect_beyond_credit(&mut self, op: u16) -> Packet {
        loop {
            let packet = self.next();
            if packet.header.op != op::CREDIT_UPDATE {
                assert_eq!(packet.header.op, op, "{:?}", packet.header);
                return packet;
            }
        }
    }

    /// Nothing is said to the guest.
    fn expect_silence(&mut self) {
        self.settle();
        assert_eq!(self.inbox.pop_front(), None);
    }

    /// The guest sends a packet, header and data in one buffer.
    fn send(&mut self, header: Header, data: &[u8]) {
        let header = Header {
            len: u32::try_from(data.len()).unwrap(),
            ..header
        };
        self.send_raw(&[&header.encode()[..], data].concat());
    }

    /// The guest sends bytes as a packet. Its buffers are used again and again.
    fn send_raw(&mut self, bytes: &[u8]) {
        const SLOTS: usize = 32;
        if self.tx_slots.is_empty() {
            self.tx_slots = (0..SLOTS)
                .map(|_| self.queues[TX].allocate(HEADER_LEN + (64 << 10)))
                .collect();
        }
        let address = self.tx_slots[self.sent % SLOTS];
        self.sent += 1;
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
        self.queues[TX].add(&[Buffer {
            address,
            len: u32::try_from(bytes.len()).unwrap(),
            writable: false,
        }]);
        self.announce(TX);
        self.sleep_after(100_000);
    }

    /// A client asks for a connection to `port` of the guest.
    fn client(&mut self, port: u32) -> UnixStream {
        let mut client = UnixStream::connect(self.path()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(format!("CONNECT {port}\n").as_bytes()).unwrap();
        client
    }

    /// A client whose connection the guest has accepted, and the guest's end of it.
    fn connected(&mut self) -> (UnixStream, Guest) {
        let mut client = self.client(52);
        let request = self.expect(op::REQUEST).header;
        let guest = Guest::answering(&request);
        self.send(guest.header(op::RESPONSE), &[]);
        let line = format!("OK {}\n", request.src_port);
        assert_eq!(read_exactly(&mut client, line.len()), line.as_bytes());
        (client, guest)
    }

    /// A server for the guest's connections to `port`.
    fn server(&self, port: u32) -> UnixListener {
        let mut path = self.path().into_os_string();
        path.push(format!("_{port}"));
        UnixListener::bind(path).unwrap()
    }

    fn counters(&mut self) -> VsockMetrics {
        self.vsock.take_metrics()
    }

    fn connections(&mut self) -> usize {
        self.vsock.hub().connections.len()
    }

    /// Every deadline is over.
    fn hasten(&mut self) {
        let hub: &mut Hub = self.vsock.hub();
        let ids: Vec<_> = hub.connections.keys().copied().collect();
        for id in ids {
            let connection = hub.connections.get_mut(&id).unwrap();
            if connection.deadline.is_some() {
                hub.deadlines
                    .change(id, &mut connection.deadline, Some(Instant::now()));
            }
        }
        hub.arm();
        let end = Instant::now() + PATIENCE;
        while !readable(self.vsock.backend_events()[0].fd, 10) {
            assert!(Instant::now() < end, "the timer does not expire");
        }
        self.settle();
    }
}

/// The guest's end of a connection.
#[derive(Debug, Clone)]
struct Guest {
    port: u32,
    host_port: u32,
    buf_alloc: u32,
    fwd_cnt: u32,
}

impl Guest {
    /// A connection that the guest asks for.
    fn new(port: u32, host_port: u32) -> Self {
        Self {
            port,
            host_port,
            buf_alloc: 256 << 10,
            fwd_cnt: 0,
        }
    }

    fn answering(request: &Header) -> Self {
        Self::new(request.dst_port, request.src_port)
    }

    fn header(&self, op: u16) -> Header {
        Header {
            src_cid: CID.into(),
            dst_cid: HOST_CID,
            src_port: self.port,
            dst_port: self.host_port,
            len: 0,
            socket_type: TYPE_STREAM,
            op,
            flags: 0,
            buf_alloc: self.buf_alloc,
            fwd_cnt: self.fwd_cnt,
        }
    }

    fn shutdown(&self, flags: u32) -> Header {
        Header {
            flags,
            ..self.header(op::SHUTDOWN)
        }
    }

    /// The guest's program took `data`.
    fn take(&mut self, data: &[u8]) {
        self.fwd_cnt = self.fwd_cnt.wrapping_add(u32::try_from(data.len()).unwrap());
    }
}

fn readable(fd: RawFd, timeout_ms: i32) -> bool {
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd is passed, which outlives the call.
    unsafe { libc::poll(&raw mut poll, 1, timeout_ms) == 1 }
}

fn read_exactly(stream: &mut UnixStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// Whether the other end has closed, with nothing more to read.
fn is_closed(stream: &mut UnixStream) -> bool {
    match stream.read(&mut [0; 1]) {
        Ok(len) => len == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

/// Bytes that repeat only after a long time.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = vec![0; len];
    for byte in &mut bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = (state >> 32) as u8;
    }
    bytes
}
