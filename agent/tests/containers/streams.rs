//! Bytes through stdin, stdout and stderr.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use koya_proto::error::ErrorKind;
use koya_proto::stream::Token;
use koya_proto::v1::root_filesystem::Source;
use koya_proto::v1::{Disk, Overlay, Stdio};

use crate::place::{LONG, Place, config, exec_request, output, process, shell};

/// Bytes that no part of repeats soon.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn tokens_are_claimed_before_disks_are_waited_for() {
    let place = Place::new();
    let missing = Disk {
        serial: "nothing".to_owned(),
        filesystem: "erofs".to_owned(),
        ..Default::default()
    };
    let overlay = Overlay {
        lower: vec![missing],
        ..Default::default()
    };
    let (stdio, out) = output();
    let mut slow = place.request("slow", &config(&["true"]));
    slow.root.mut_or_insert_default().source = Some(Source::Overlay(overlay));
    slow.stdio = Some(stdio).into();
    let mut stream = place.stream(out);
    let error = place.client.create(slow).unwrap_err();
    assert_eq!(error.kind(), Some(ErrorKind::ERROR_KIND_STORAGE), "{error}");
    // Closed with the request that claimed it; else it would wait for one for 3 s more.
    let begun = Instant::now();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    assert!(
        begun.elapsed() < Duration::from_millis(1500),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn megabytes_pass_through_a_container_whole() {
    let place = Place::new();
    let bytes = noise(5 << 20);
    let mut request = place.request("cat", &config(&["cat"]));
    let (mut stdio, out) = output();
    let stdin = Token::random().unwrap();
    stdio.stdin = stdin.to_field();
    request.stdio = Some(stdio).into();
    // Streams may be connected before anybody asks for them.
    let mut receiving = place.stream(out);
    place.client.create(request).unwrap();
    let mut sending = place.stream(stdin);
    place.client.start("cat").unwrap();
    let sent = bytes.clone();
    let sender = std::thread::spawn(move || {
        sending.write_all(&sent).unwrap();
        sending.shutdown(Shutdown::Write).unwrap();
    });
    let mut received = Vec::new();
    receiving.read_to_end(&mut received).unwrap();
    sender.join().unwrap();
    assert!(
        received == bytes,
        "{} of {} bytes came back, or others",
        received.len(),
        bytes.len()
    );
    assert_eq!(place.client.wait(&"cat".into(), Some(LONG)).unwrap().code, 0);
}

#[test]
fn output_and_errors_are_apart() {
    let place = Place::new();
    place.sleeper("room");
    let (out, err) = (Token::random().unwrap(), Token::random().unwrap());
    let stdio = Stdio {
        stdout: out.to_field(),
        stderr: err.to_field(),
        ..Default::default()
    };
    let script = process(&["sh", "-c", "echo good; echo bad >&2"]);
    place
        .client
        .exec(exec_request("room", "x", &script, stdio))
        .unwrap();
    let read = |token| {
        let mut text = String::new();
        place.stream(token).read_to_string(&mut text).unwrap();
        text
    };
    assert_eq!((read(out), read(err)), ("good\n".to_owned(), "bad\n".to_owned()));
}

#[test]
fn a_slow_reader_stops_its_own_process_only() {
    let place = Place::new();
    let mut request = place.request("loud", &shell("dd if=/dev/zero bs=64k count=160 2>/dev/null"));
    let (stdio, out) = output();
    request.stdio = Some(stdio).into();
    place.client.create(request).unwrap();
    let mut slow = place.stream(out);
    place.client.start("loud").unwrap();
    let error = place
        .client
        .wait(&"loud".into(), Some(Duration::from_secs(2)))
        .unwrap_err();
    assert_eq!(error.kind(), Some(ErrorKind::ERROR_KIND_DEADLINE));
    // Meanwhile, others run.
    assert_eq!(place.run("quick", &shell("echo here")), (0, "here\n".to_owned()));
    let mut bytes = Vec::new();
    slow.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len(), 160 << 16);
    assert_eq!(place.client.wait(&"loud".into(), Some(LONG)).unwrap().code, 0);
}

#[test]
fn a_client_that_leaves_does_not_end_the_process() {
    let place = Place::new();
    place.sleeper("room");
    let (stdio, out) = output();
    let script = process(&[
        "sh",
        "-c",
        "echo first; sleep 1; yes | head -c 1000000; echo done > /tmp/done",
    ]);
    place
        .client
        .exec(exec_request("room", "x", &script, stdio))
        .unwrap();
    let mut first = [0; 6];
    place.stream(out).read_exact(&mut first).unwrap();
    let process_id = koya_proto::client::ProcessId::exec("room", "x");
    assert_eq!(place.client.wait(&process_id, Some(LONG)).unwrap().code, 0);
    let (_, text) = place.exec("room", "y", &process(&["cat", "/tmp/done"]), b"");
    assert_eq!(text, b"done\n");
}

#[test]
fn a_client_that_hangs_up_ends_what_writes() {
    let place = Place::new();
    place.sleeper("room");
    let (mut stdio, out) = output();
    stdio.hang_up = true;
    let script = process(&["sh", "-c", "yes; echo $? > /tmp/code"]);
    place
        .client
        .exec(exec_request("room", "x", &script, stdio))
        .unwrap();
    let mut first = [0; 2];
    place.stream(out).read_exact(&mut first).unwrap();
    let process_id = koya_proto::client::ProcessId::exec("room", "x");
    assert_eq!(place.client.wait(&process_id, Some(LONG)).unwrap().code, 0);
    let (_, text) = place.exec("room", "y", &process(&["cat", "/tmp/code"]), b"");
    assert_ne!(text, b"0\n");
}

#[test]
fn children_that_keep_stdout_do_not_hold_up_the_end() {
    let place = Place::new();
    place.sleeper("room");
    let script = process(&["sh", "-c", "sleep 1000 & echo left"]);
    assert_eq!(place.exec("room", "x", &script, b""), (0, b"left\n".to_vec()));
}

#[test]
fn a_stream_that_nobody_connects_is_given_up() {
    let place = Place::new();
    place.sleeper("room");
    let (stdio, _) = output();
    place
        .client
        .exec(exec_request("room", "x", &process(&["echo", "unheard"]), stdio))
        .unwrap();
    let process_id = koya_proto::client::ProcessId::exec("room", "x");
    assert_eq!(place.client.wait(&process_id, Some(LONG)).unwrap().code, 0);
}

#[test]
fn a_stream_without_a_right_token_is_closed() {
    let place = Place::new();
    let mut nobodys = place.stream(Token::random().unwrap());
    let mut garbage = std::os::unix::net::UnixStream::connect(place.folder().join("stream.sock")).unwrap();
    garbage.write_all(&[b'x'; 24]).unwrap();
    for stream in [&mut garbage, &mut nobodys] {
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    }
}
