//! "16550 serial on stdio or a file, bounded output buffering": readers that are slow, late or gone, writers without end,
//! and the same for the log and the metrics.

use std::fs::File;
use std::io::{Read, Write, pipe};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use koya_api::http::Method;
use koya_tests::vm::{self, PATIENCE, Scratch, Vm};
use serde_json::json;

use super::support::process::{assert_idle, resident_kib, threads};
use super::support::{Monitor, boot, config, drive};

/// Two pages, the least with which a pipe takes bytes one by one until it is full.
const SMALL: i32 = 8192;

/// A small pipe that nobody reads yet.
fn small_pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
    let (reader, writer) = pipe().unwrap();
    // SAFETY: the descriptor is an open pipe; the argument is a number.
    let size = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, SMALL) };
    assert_eq!(size, SMALL, "{}", std::io::Error::last_os_error());
    (reader, writer)
}

/// Nobody reads the console: what does not fit is dropped, the guest ends by itself, the monitor does not grow.
#[test]
fn a_console_flood_that_nobody_reads() {
    let (mut reader, writer) = small_pipe();
    let mut command = Command::new(vm::vmm_binary());
    command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped());
    let mut monitor = Monitor::with_streams_of(command, Scratch::new(), &[]);
    monitor.done(Method::Put, "/boot-source", &boot("flood", "n=120000"));
    monitor.act("InstanceStart");
    let pid = monitor.vm.pid();
    let start = resident_kib(pid);
    let mut most = start;
    while monitor.vm.is_running() {
        most = most.max(resident_kib(pid));
        thread::sleep(Duration::from_millis(10));
    }
    monitor.vm.expect_exit(0);
    assert!(most < start + 1024, "{start} KiB became {most} KiB");
    assert_eq!(monitor.vm.log.text(), "");
    drop(monitor);
    let mut kept = Vec::new();
    reader.read_to_end(&mut kept).unwrap();
    assert!(kept.starts_with(b"The guest talks and talks"), "{kept:?}");
    assert!(kept.len() <= 8192, "{} bytes", kept.len());
}

/// The reader goes away in the middle.
#[test]
fn a_console_flood_to_a_closed_stdout() {
    let (reader, writer) = small_pipe();
    let mut command = Command::new(vm::vmm_binary());
    command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped());
    let mut monitor = Monitor::with_streams_of(command, Scratch::new(), &[]);
    monitor.done(Method::Put, "/boot-source", &boot("flood", "n=30000"));
    monitor.act("InstanceStart");
    let mut some = [0; 1000];
    (&reader).read_exact(&mut some).unwrap();
    drop(reader);
    monitor.vm.expect_exit(0);
    assert_eq!(monitor.vm.log.text(), "");
}

/// What a reader gets who begins only when the guest, which writes so many bytes, has ended.
fn read_late(bytes: usize) -> String {
    let (mut reader, writer) = small_pipe();
    let mut command = Command::new(vm::vmm_binary());
    command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped());
    let mut monitor = Monitor::with_streams_of(command, Scratch::new(), &[]);
    monitor.boot("flood", &format!("n={bytes}"));
    let start = Instant::now();
    let pid = monitor.vm.pid();
    // A thread gets its name a moment after it has begun.
    for runs in [true, false] {
        while threads(pid).iter().any(|name| name.starts_with("fc_vcpu")) != runs {
            assert!(start.elapsed() < PATIENCE, "the guest does not begin or end");
            thread::sleep(Duration::from_millis(1));
        }
    }
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    monitor.vm.expect_exit(0);
    text
}

/// He gets everything that fits into the buffer, in order, even what was not read when the guest ended.
#[test]
fn a_late_reader_of_the_console_misses_nothing_that_fits() {
    const BYTES: usize = 30_016;
    let text = read_late(BYTES);
    let line = text.lines().next().unwrap();
    assert!(text.lines().all(|other| other == line));
    assert_eq!(text.len(), BYTES);
}

/// What does not fit is gone, instead of filling the host's memory.
#[test]
fn a_late_reader_of_a_flood_gets_what_the_buffer_holds() {
    let kept = read_late(120_000).len();
    let (pipe, buffer) = (8 << 10, 64 << 10);
    assert!((buffer..=buffer + pipe).contains(&kept), "{kept} bytes");
}

/// Nobody reads the log, and the guest causes lines of it.
#[test]
fn a_log_that_nobody_reads_holds_nobody_up() {
    let (mut reader, writer) = small_pipe();
    let scratch = Scratch::new();
    let mut command = Command::new(vm::vmm_binary());
    command
        .stdin(Stdio::null())
        .stdout(File::create(scratch.path("console")).unwrap());
    command.stderr(writer.try_clone().unwrap());
    let mut monitor = Monitor::with_streams_of(command, Scratch::new(), &[]);
    fill(&writer);
    drop(writer);
    monitor.done(
        Method::Put,
        "/drives/vda",
        &drive("vda", &scratch.disk("disk", 1 << 20), false),
    );
    monitor.done(Method::Put, "/boot-source", &boot("virtio", "misbehave=2"));
    monitor.act("InstanceStart");
    monitor.vm.expect_exit(0);
    let console = std::fs::read_to_string(scratch.path("console")).unwrap();
    assert!(console.contains("doorbells without memory: alive\n"), "{console}");
    drop(monitor);
    let mut kept = Vec::new();
    reader.read_to_end(&mut kept).unwrap();
}

/// Nor is the end of the process held up by its own last words.
#[test]
fn an_end_that_nobody_hears_of_is_an_end() {
    for guest in ["triple", "emulate", "no-such-guest"] {
        let (_reader, writer) = small_pipe();
        let scratch = Scratch::new();
        let file = scratch.file("vm.json", config(guest, "", json!({})).to_string());
        let mut command = Command::new(vm::vmm_binary());
        command.args(["--no-api", "--config-file"]).arg(&file);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(writer.try_clone().unwrap());
        fill(&writer);
        Vm::spawn_as_it_is(command).expect_exit(1);
    }
}

/// Fills a pipe to the last byte.
fn fill(writer: &std::io::PipeWriter) {
    let room = [b'.'; SMALL as usize];
    // SAFETY: the descriptor is open, and the buffer is valid for its length.
    let written = unsafe {
        libc::fcntl(writer.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK);
        let written = libc::write(writer.as_raw_fd(), room.as_ptr().cast(), room.len());
        libc::fcntl(writer.as_raw_fd(), libc::F_SETFL, 0);
        written
    };
    assert_eq!(written, SMALL as isize);
}

/// Whoever types faster than the guest reads is held back, and the monitor goes to sleep.
#[test]
fn input_that_the_guest_does_not_read_is_not_collected() {
    let (reader, mut writer) = pipe().unwrap();
    let typist = thread::spawn(move || {
        let mut typed = 0;
        while let Ok(count) = writer.write(&[b'x'; 4096]) {
            typed += count;
        }
        typed
    });
    let monitor = halted(reader.into());
    assert_idle(monitor.vm.pid());
    monitor.terminate();
    let typed = typist.join().unwrap();
    assert!(typed <= (64 << 10) + 4096, "{typed} bytes");
}

/// Inputs that are always readable, and cannot be waited for.
#[test]
fn input_without_end_does_not_keep_the_monitor_busy() {
    let scratch = Scratch::new();
    let file = scratch.disk("file", 1 << 30);
    for path in ["/dev/zero".as_ref(), "/dev/null".as_ref(), file.as_path()] {
        let monitor = halted(File::open(path).unwrap().into());
        assert_idle(monitor.vm.pid());
        monitor.terminate();
    }
}

/// A monitor whose guest halts without ever reading its input.
fn halted(input: Stdio) -> Monitor {
    let mut command = Command::new(vm::vmm_binary());
    command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
    let monitor = Monitor::with_streams_of(command, Scratch::new(), &[]);
    monitor.boot("halt", "");
    monitor.vm.expect("halted\n");
    monitor
}

/// The console on a full disk, or in a pipe that nobody reads.
#[test]
fn a_console_that_takes_nothing_does_not_hold_the_guest_up() {
    let scratch = Scratch::new();
    let pipe = scratch.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for path in ["/dev/full".as_ref(), pipe.as_path()] {
        let mut monitor = Monitor::start();
        monitor.done(Method::Put, "/serial", &json!({ "serial_out_path": path }));
        monitor.boot("ports", "n=1000");
        monitor.vm.expect_exit(0);
        assert_eq!(monitor.vm.log.text(), "", "{}", path.display());
    }
}

/// Metrics in a pipe that nobody reads: the client is told, and nobody waits.
#[test]
fn metrics_that_nobody_reads_hold_nobody_up() {
    let scratch = Scratch::new();
    let pipe = scratch.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let monitor = Monitor::start();
    monitor.done(Method::Put, "/metrics", &json!({ "metrics_path": pipe }));
    monitor.boot("spin", "");
    let flush = json!({ "action_type": "FlushMetrics" }).to_string();
    let answers = (0..1000).map(|_| monitor.request(Method::Put, "/actions", Some(&flush)));
    let refused = answers.into_iter().find(|answer| !answer.is_success());
    let refused = refused.expect("a pipe has an end");
    assert_eq!(refused.status, 400);
    assert!(
        refused.fault_message().unwrap().starts_with("Metrics error"),
        "{refused:?}"
    );
    assert_eq!(monitor.state(), "Running");
    monitor.terminate();
}
