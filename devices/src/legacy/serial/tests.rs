#![allow(clippy::arithmetic_side_effects)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Mutex;

use event_manager::{EventManager, SubscriberOps};

use super::output::CAPACITY;
use super::*;
use crate::state::Snapshot;
use crate::virtio::testing::CountingLine;

const DATA: u64 = 0;
const IER: u64 = 1;
const LSR: u64 = 5;

/// Records each write; takes `room` bytes more.
#[derive(Clone)]
struct Recorder(Arc<Mutex<Recorded>>);

struct Recorded {
    writes: Vec<Vec<u8>>,
    room: usize,
    broken: bool,
}

impl Recorder {
    fn new(room: usize) -> Self {
        Self(Arc::new(Mutex::new(Recorded {
            writes: Vec::new(),
            room,
            broken: false,
        })))
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().writes.concat()
    }
}

impl SerialSink for Recorder {
    fn write_ready(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut recorded = self.0.lock().unwrap();
        if recorded.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if recorded.room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = bytes.len().min(recorded.room);
        recorded.room -= len;
        recorded.writes.push(bytes[..len].to_vec());
        Ok(len)
    }

    fn fd(&self) -> Option<RawFd> {
        None
    }
}

fn serial(room: usize) -> (Serial, Recorder, Arc<CountingLine>) {
    let (recorder, line) = (Recorder::new(room), CountingLine::shared());
    (
        Serial::new(line.clone(), Box::new(recorder.clone())).unwrap(),
        recorder,
        line,
    )
}

fn read(serial: &mut Serial, offset: u64) -> u8 {
    let mut data = [0];
    serial.read(offset, &mut data);
    data[0]
}

/// Reads input as a driver does.
fn receive(serial: &mut Serial) -> Vec<u8> {
    std::iter::from_fn(|| (read(serial, LSR) & 1 != 0).then(|| read(serial, DATA)))
        .take(1000)
        .collect()
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| u8::try_from(index % 251).unwrap()).collect()
}

/// More than any pipe holds unless somebody made it larger: 16 pages, on a host whose pages have 64 KiB.
const LARGEST_PIPE: usize = 2 << 20;

/// A pipe whose reader never waits: a test must end whatever the pipe holds, and that differs from host to host.
fn pipe() -> (File, OwnedFd) {
    let (reader, writer) = io::pipe().unwrap();
    let reader = File::from(OwnedFd::from(reader));
    // SAFETY: the descriptor is open; F_SETFL takes an integer.
    let result = unsafe { libc::fcntl(reader.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    assert_eq!(result, 0);
    (reader, writer.into())
}

/// Appends what the pipe holds now.
fn read_available(reader: &mut File, received: &mut Vec<u8>) {
    let end = reader.read_to_end(received).unwrap_err();
    assert_eq!(end.kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn each_byte_reaches_an_idle_sink_at_once() {
    let (mut serial, recorder, _) = serial(usize::MAX);
    serial.write(DATA, b"K");
    assert_eq!(recorder.0.lock().unwrap().writes, [b"K"]);
    serial.write(DATA, b"o");
    assert_eq!(recorder.0.lock().unwrap().writes, [b"K", b"o"]);
    assert!(!serial.output_pending());
    assert!(
        serial.wake_event().read().is_err(),
        "the event loop is not needed"
    );
}

#[test]
fn a_slow_sink_costs_64_kib_and_then_bytes_but_never_time() {
    let (mut serial, recorder, _) = serial(10);
    let sent = pattern(CAPACITY + 1000);
    for byte in &sent {
        serial.write(DATA, &[*byte]);
    }
    assert_eq!(recorder.bytes(), sent[..10]);
    assert_eq!(
        serial.wake_event().read().unwrap(),
        1,
        "called once, not once a byte"
    );
    assert_eq!(serial.metrics().dropped_bytes, 1000 - 10);
    recorder.0.lock().unwrap().room = usize::MAX;
    serial.flush();
    assert_eq!(recorder.bytes(), sent[..CAPACITY + 10]);
    assert!(!serial.output_pending());
    serial.write(DATA, b"!");
    assert_eq!(recorder.bytes().last(), Some(&b'!'));
    assert_eq!(serial.take_metrics().write_count, CAPACITY as u64 + 1001);
}

#[test]
fn a_sink_that_recovers_is_noticed_without_an_event_loop() {
    let (mut serial, recorder, _) = serial(0);
    let sent = pattern(200);
    for (index, byte) in sent.iter().enumerate() {
        if index == 100 {
            recorder.0.lock().unwrap().room = usize::MAX;
        }
        serial.write(DATA, &[*byte]);
    }
    assert_eq!(recorder.bytes(), sent);
}

#[test]
fn a_broken_sink_loses_output_and_nothing_else() {
    let (mut serial, recorder, _) = serial(0);
    serial.write(DATA, b"a");
    recorder.0.lock().unwrap().broken = true;
    serial.flush();
    serial.write(DATA, b"b");
    assert!(!serial.output_pending());
    assert_eq!(serial.metrics().error_count, 2);
    let mut broken = recorder.0.lock().unwrap();
    broken.broken = false;
    broken.room = 9;
    drop(broken);
    serial.write(DATA, b"c");
    assert_eq!(recorder.bytes(), b"c");
}

#[test]
fn a_full_pipe_does_not_block_the_guest() {
    let (mut reader, writer) = pipe();
    let mut serial = Serial::new(CountingLine::shared(), Box::new(FdSink::new(writer))).unwrap();
    let mut sent = Vec::new();
    let mut dropped = 0;
    for byte in pattern(LARGEST_PIPE) {
        serial.write(DATA, &[byte]);
        sent.push(byte);
        dropped = usize::try_from(serial.metrics().dropped_bytes).unwrap();
        if dropped == 100_000 {
            break;
        }
    }
    assert_eq!(dropped, 100_000);
    let mut received = Vec::new();
    for _ in 0..1000 {
        read_available(&mut reader, &mut received);
        serial.flush();
    }
    assert!(!serial.output_pending());
    read_available(&mut reader, &mut received);
    // What came last was dropped, and nothing else.
    assert_eq!(received, sent[..sent.len() - dropped]);
}

#[test]
fn the_output_of_a_closed_pipe_goes_nowhere() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let mut serial = Serial::new(CountingLine::shared(), Box::new(FdSink::new(writer.into()))).unwrap();
    serial.write(DATA, b"x");
    assert_eq!(serial.metrics().error_count, 1);
}

#[test]
fn input_fills_the_fifo_and_interrupts() {
    let (mut serial, _, line) = serial(0);
    serial.write(IER, &[1]);
    line.take();
    let sent = pattern(100);
    assert_eq!(serial.enqueue(&sent), 64);
    assert_eq!(serial.input_room(), 0);
    assert_eq!(serial.enqueue(&sent), 0);
    assert_eq!(line.take(), 1);
    assert_eq!(receive(&mut serial), sent[..64]);
    assert_eq!(serial.input_room(), 64);
    assert!(serial.wake_event().read().is_err(), "nobody asked");
    serial.wake_when_drained();
    serial.enqueue(b"a");
    receive(&mut serial);
    assert_eq!(serial.wake_event().read().unwrap(), 1);
}

#[test]
fn only_single_bytes_are_registers() {
    let (mut serial, recorder, _) = serial(100);
    serial.write(DATA, b"ab");
    serial.write(DATA, &[]);
    serial.write(1 << 40, b"a");
    let mut data = [0; 4];
    serial.read(LSR, &mut data);
    assert_eq!(data, [0; 4]);
    assert_eq!(recorder.bytes(), b"");
    let metrics = serial.take_metrics();
    assert_eq!((metrics.missed_write_count, metrics.missed_read_count), (3, 1));
}

#[test]
fn a_restored_port_has_its_registers_and_its_input() {
    let (mut original, _, _) = serial(0);
    for (register, value) in [(3, 0x80), (0, 0x01), (3, 0x03), (4, 0x0b), (7, 0x5a), (IER, 0x05)] {
        original.write(register, &[value]);
    }
    original.enqueue(b"typed ahead");
    let json = serde_json::to_string(&original.save()).unwrap();
    let (mut restored, recorder, line) = serial(100);
    restored.restore(&serde_json::from_str(&json).unwrap()).unwrap();
    assert_eq!(restored.save(), original.save());
    assert_eq!(line.take(), 1, "the interrupt that was pending");
    assert_eq!(receive(&mut restored), b"typed ahead");
    restored.write(DATA, b"k");
    assert_eq!(recorder.bytes(), b"k");

    let good = original.save();
    assert!(
        restored
            .restore(&SerialState {
                input: vec![0; 65],
                ..good.clone()
            })
            .is_err()
    );
    assert!(restored.restore(&SerialState { version: 0, ..good }).is_err());
}

struct Loop {
    manager: EventManager<Console>,
    serial: Arc<Mutex<Serial>>,
}

fn event_loop(serial: Serial, input: Option<OwnedFd>, filter: InputFilter) -> Loop {
    let serial = Arc::new(Mutex::new(serial));
    let mut manager = EventManager::new().unwrap();
    manager.add_subscriber(Console::new(serial.clone(), input).with_filter(filter));
    Loop { manager, serial }
}

impl Loop {
    fn run(&mut self, most: usize) -> usize {
        (0..most)
            .find(|_| self.manager.run_with_timeout(0).unwrap() == 0)
            .unwrap_or(most)
    }

    fn receive(&mut self) -> Vec<u8> {
        receive(&mut self.serial.lock().unwrap())
    }
}

#[test]
fn input_is_read_only_while_the_guest_has_room() {
    let (reader, mut writer) = io::pipe().unwrap();
    let mut bench = event_loop(serial(0).0, Some(reader.into()), Box::new(Some));
    let sent = pattern(200);
    writer.write_all(&sent).unwrap();
    assert!(bench.run(10) < 5, "a guest that does not read causes no storm");
    let mut received = Vec::new();
    for _ in 0..4 {
        received.extend(bench.receive());
        bench.run(10);
    }
    assert_eq!(received, sent);
    drop(writer);
    assert!(bench.run(10) < 3, "the end of input is noticed once");
    assert_eq!(bench.run(10), 0);
}

#[test]
fn input_from_a_file_is_read_to_its_end() {
    let sent = pattern(200);
    let path = std::env::temp_dir().join(format!("koya-serial-{}", std::process::id()));
    std::fs::write(&path, &sent).unwrap();
    let file = File::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let mut bench = event_loop(serial(0).0, Some(file.into()), Box::new(Some));
    let mut received = Vec::new();
    for _ in 0..6 {
        bench.run(10);
        received.extend(bench.receive());
    }
    assert_eq!(received, sent);
    assert_eq!(bench.run(10), 0);
}

#[test]
fn an_endless_file_does_not_hold_the_loop() {
    let zero = File::open("/dev/zero").unwrap();
    // Everything is kept from the guest, so its FIFO never fills.
    let mut bench = event_loop(serial(0).0, Some(zero.into()), Box::new(|_| None));
    assert_eq!(bench.run(20), 20);
    let null = File::open("/dev/null").unwrap();
    let mut bench = event_loop(serial(0).0, Some(null.into()), Box::new(Some));
    assert!(bench.run(10) < 3);
}

#[test]
fn the_filter_sees_input_first() {
    let (reader, mut writer) = io::pipe().unwrap();
    let filter = Box::new(|byte: u8| (byte != b'x').then(|| byte.to_ascii_uppercase()));
    let mut bench = event_loop(serial(0).0, Some(reader.into()), filter);
    writer.write_all(b"axb").unwrap();
    bench.run(10);
    assert_eq!(bench.receive(), b"AB");
}

#[test]
fn stuck_output_goes_on_when_the_reader_does() {
    let (mut reader, writer) = pipe();
    let port = Serial::new(CountingLine::shared(), Box::new(FdSink::new(writer))).unwrap();
    let mut bench = event_loop(port, None, Box::new(Some));
    let (mut sent, mut waiting) = (Vec::new(), 0);
    for byte in pattern(LARGEST_PIPE) {
        let mut serial = bench.serial.lock().unwrap();
        serial.write(DATA, &[byte]);
        sent.push(byte);
        waiting += usize::from(serial.output_pending());
        if waiting == 20_000 {
            break;
        }
    }
    assert_eq!(waiting, 20_000);
    assert!(bench.run(10) < 5, "a full pipe causes no storm");
    let mut received = Vec::new();
    for _ in 0..1000 {
        read_available(&mut reader, &mut received);
        bench.run(10);
    }
    read_available(&mut reader, &mut received);
    assert_eq!(received, sent);
    assert!(!bench.serial.lock().unwrap().output_pending());
    assert_eq!(bench.run(10), 0);
}
