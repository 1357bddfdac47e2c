//! HTTP that is malformed, huge, slow or half closed.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use koya_api::http::MAX_HEAD_BYTES;
use koya_tests::vm::{self, Scratch};

use super::assert_healthy;
use crate::support::Monitor;
use crate::support::http::Raw;
use crate::support::process::{assert_idle, resident_kib};

#[test]
fn malformed_http() {
    let monitor = Monitor::start();
    for (bytes, status, named) in [
        (
            &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"[..],
            400,
            "HTTP/1.1",
        ),
        (b"hello there\r\n\r\n", 400, "Invalid"),
        (b"GET / HTTP/2.0\r\n\r\n", 400, "HTTP/1.1"),
        (b"GET /\0 HTTP/1.1\r\n\r\n", 400, "HTTP/1.1"),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400, "HTTP/1.1"),
        (b"POST / HTTP/1.1\r\n\r\n", 400, "GET, PUT, PATCH or DELETE"),
        (
            b"PUT /vm HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            400,
            "number of bytes",
        ),
        (
            b"PUT /vm HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            400,
            "once",
        ),
        (
            b"PUT /vm HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            501,
            "Content-Length",
        ),
    ] {
        let mut raw = Raw::connect(&monitor);
        raw.send(bytes);
        let answer = raw.answer();
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(answer.fault().contains(named), "{answer:?}");
        assert!(answer.head.contains("connection: close"), "{answer:?}");
        assert!(raw.has_ended());
    }
    assert_healthy(&monitor);
}

#[test]
fn huge_http() {
    let monitor = Monitor::start();
    let before = resident_kib(monitor.vm.pid());
    // A body that is announced as huge is refused before it comes.
    let mut announced = Raw::connect(&monitor);
    announced.send("PUT /boot-source HTTP/1.1\r\nContent-Length: 4294967296\r\n\r\n");
    let answer = announced.answer();
    assert_eq!(answer.status, 400);
    assert!(
        answer
            .fault()
            .contains("size 4294967296 is larger than the limit of 51200"),
        "{answer:?}"
    );
    // Heads without end: one line, many headers.
    for (start, piece) in [("GET /", "x"), ("GET / HTTP/1.1\r\n", "a: b\r\n")] {
        let mut endless = Raw::connect(&monitor);
        endless.send(start);
        let chunk = piece.repeat(MAX_HEAD_BYTES);
        // The server stops reading at some point; that must not be a reason to hang or to grow.
        for _ in 0..1000 {
            if !endless.try_send(chunk.as_bytes()) {
                break;
            }
        }
    }
    // A client that asks and asks, and never reads an answer.
    let mut greedy = Raw::connect(&monitor);
    let asks = "GET /vm/config HTTP/1.1\r\n\r\n".repeat(1000);
    let start = Instant::now();
    greedy.give_up_writing_after(Duration::from_millis(500));
    while greedy.try_send(asks.as_bytes()) {
        assert!(start.elapsed() < Duration::from_secs(20), "it takes everything");
    }
    let grown = resident_kib(monitor.vm.pid()).saturating_sub(before);
    assert!(grown < 1024, "grown by {grown} KiB");
    assert_healthy(&monitor);
}

#[test]
fn http_of_one_byte_a_second_does_not_touch_a_running_guest() {
    let mut monitor = Monitor::running("echo", "");
    monitor.vm.expect("echo: ready");
    let mut slow = Raw::connect(&monitor);
    let request = b"GET /version HTTP/1.1\r\n\r\n";
    let (first, rest) = request.split_at(5);
    for (index, byte) in first.iter().enumerate() {
        slow.send([*byte]);
        let start = Instant::now();
        assert_eq!(monitor.state(), "Running");
        let typed = format!("<{index}>");
        monitor.vm.type_in(typed.as_bytes()).unwrap();
        monitor.vm.expect(&typed);
        assert!(
            start.elapsed() < Duration::from_secs(1),
            "held up for {:?}",
            start.elapsed()
        );
        thread::sleep(Duration::from_secs(1).saturating_sub(start.elapsed()));
    }
    assert!(slow.is_silent());
    slow.send(rest);
    assert_eq!(slow.answer().status, 200);
    monitor.vm.type_in(b"q").unwrap();
    monitor.vm.expect_exit(0);
}

#[test]
fn half_closed_http() {
    let monitor = Monitor::start();
    // After a whole request: it is answered.
    let mut asked = Raw::connect(&monitor);
    asked.send("GET / HTTP/1.1\r\n\r\n");
    asked.half_close();
    assert_eq!(asked.answer().status, 200);
    assert!(asked.has_ended());
    // In the middle of a head, of a body, and before anything: nothing comes of it.
    for part in [
        "GET / HT",
        "PUT /actions HTTP/1.1\r\nContent-Length: 100\r\n\r\n{\"acti",
        "",
    ] {
        let mut unfinished = Raw::connect(&monitor);
        unfinished.send(part);
        unfinished.half_close();
        assert!(unfinished.has_ended(), "{part:?}");
    }
    // Gone in the middle of a request, and before the answer is read.
    for part in ["GET / HT", "GET /vm/config HTTP/1.1\r\n\r\n"] {
        Raw::connect(&monitor).send(part);
    }
    assert_healthy(&monitor);
}

/// More connections than the server has room for, none of them idle.
#[test]
fn too_many_connections() {
    let monitor = Monitor::start();
    let mut busy: Vec<_> = (0..64)
        .map(|_| {
            let mut raw = Raw::connect(&monitor);
            raw.send("PUT /actions HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
            assert_eq!(raw.answer().status, 100);
            raw
        })
        .collect();
    let mut refused = Raw::connect(&monitor);
    let answer = refused.answer();
    assert_eq!(answer.status, 503);
    assert!(answer.fault().contains("all 64 are busy"), "{answer:?}");
    for raw in &mut busy {
        raw.send("{}");
        assert_eq!(raw.answer().status, 400);
    }
    assert_healthy(&monitor);
}

/// No descriptors left for connections: those that are there go on, and the monitor waits quietly.
#[test]
fn more_connections_than_descriptors() {
    let mut command = Command::new("prlimit");
    command.arg("--nofile=24").arg(vm::vmm_binary());
    let monitor = Monitor::within(command, Scratch::new(), &[]);
    let mut first = Raw::connect(&monitor);
    first.send("PUT /actions HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    assert_eq!(first.answer().status, 100);
    // One that has not asked yet may be ended to make room for others.
    let crowd: Vec<_> = (0..40)
        .map(|_| {
            let mut raw = Raw::connect(&monitor);
            raw.try_send(b"GET / HTTP/1.1\r\n");
            raw
        })
        .collect();
    assert_idle(monitor.vm.pid());
    first.send("{}");
    assert_eq!(first.answer().status, 400);
    drop(crowd);
    assert_eq!(monitor.state(), "Not started");
}

/// Clients that hang in the middle of something cost nothing.
#[test]
fn an_idle_monitor_waits_for_something_to_do() {
    let monitor = Monitor::running("halt", "");
    monitor.vm.expect("halted\n");
    let idle = Raw::connect(&monitor);
    let mut unfinished = Raw::connect(&monitor);
    unfinished.send("PUT /actions HTTP/1.1\r\nContent-Length: 100\r\n\r\n{");
    let mut greedy = Raw::connect(&monitor);
    greedy.give_up_writing_after(Duration::from_millis(100));
    while greedy.try_send("GET /vm/config HTTP/1.1\r\n\r\n".repeat(100).as_bytes()) {}
    let mut refused = Raw::connect(&monitor);
    refused.send("nonsense\r\n\r\n");
    assert_eq!(refused.answer().status, 400);
    // One that has sent all it will and never takes the answers.
    greedy.half_close();
    assert_idle(monitor.vm.pid());
    drop((idle, unfinished, greedy, refused));
    thread::sleep(Duration::from_millis(100));
    assert_idle(monitor.vm.pid());
    monitor.terminate();
}
