//! Processes with terminals.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;

use koya_proto::client::ProcessId;
use koya_proto::error::ErrorKind;
use koya_proto::stream::Token;
use koya_proto::v1::{Stdio, TerminalSize};
use serde_json::{Value, json};

use crate::place::{LONG, Place, exec_request, process, shell};

fn terminal() -> (Stdio, Token) {
    let token = Token::random().unwrap();
    let size = TerminalSize {
        rows: 30,
        columns: 100,
        ..Default::default()
    };
    let stdio = Stdio {
        terminal: token.to_field(),
        size: Some(size).into(),
        ..Default::default()
    };
    (stdio, token)
}

fn with_terminal(mut process: Value) -> Value {
    process["terminal"] = json!(true);
    process
}

/// Reads lines until one contains the text.
fn await_line(reader: &mut impl BufRead, text: &str) {
    let mut line = String::new();
    loop {
        line.clear();
        assert_ne!(
            reader.read_line(&mut line).unwrap(),
            0,
            "the terminal closed before '{text}'"
        );
        if line.contains(text) {
            return;
        }
    }
}

const SCRIPT: &str = "stty size; tty; trap 'stty size' WINCH; read line; echo got $line; \
                      while ! read line; do :; done; echo got $line; exit 3";

fn converse(place: &Place, id: &ProcessId, stream: &UnixStream) {
    let mut reader = BufReader::new(stream);
    await_line(&mut reader, "30 100");
    await_line(&mut reader, "/dev/pts/0");
    let mut writer = stream;
    writer.write_all(b"one\n").unwrap();
    await_line(&mut reader, "got one");
    place.client.resize(id, 50, 120).unwrap();
    await_line(&mut reader, "50 120");
    writer.write_all(b"two\n").unwrap();
    await_line(&mut reader, "got two");
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap();
    assert_eq!(place.client.wait(id, Some(LONG)).unwrap().code, 3);
}

#[test]
fn a_container_has_a_terminal_that_resizes() {
    let place = Place::new();
    let mut config = shell(SCRIPT);
    config["process"]["terminal"] = json!(true);
    let (stdio, token) = terminal();
    let mut request = place.request("room", &config);
    request.stdio = Some(stdio).into();
    place.client.create(request).unwrap();
    let stream = place.stream(token);
    place.client.start("room").unwrap();
    converse(&place, &"room".into(), &stream);
    place.client.delete("room", false).unwrap();
    place.assert_gone("room");
}

#[test]
fn a_process_has_a_terminal_that_resizes() {
    let place = Place::new();
    place.sleeper("room");
    let (stdio, token) = terminal();
    let process = with_terminal(process(&["sh", "-c", SCRIPT]));
    place
        .client
        .exec(exec_request("room", "x", &process, stdio))
        .unwrap();
    let stream = place.stream(token);
    converse(&place, &ProcessId::exec("room", "x"), &stream);
}

#[test]
fn keys_of_a_terminal_are_signals() {
    let place = Place::new();
    place.sleeper("room");
    let (stdio, token) = terminal();
    let process = with_terminal(process(&["sh", "-c", "echo here; exec sleep 1000"]));
    place
        .client
        .exec(exec_request("room", "x", &process, stdio))
        .unwrap();
    let stream = place.stream(token);
    await_line(&mut BufReader::new(&stream), "here");
    // Ctrl-C.
    (&stream).write_all(b"\x03").unwrap();
    let exit = place
        .client
        .wait(&ProcessId::exec("room", "x"), Some(LONG))
        .unwrap();
    assert_eq!((exit.code, exit.signal), (130, 2));
}

#[test]
fn streams_fit_the_process() {
    let place = Place::new();
    place.sleeper("room");
    let (stdio, _) = terminal();
    let request = exec_request("room", "x", &process(&["true"]), stdio);
    assert_eq!(
        place.client.exec(request).unwrap_err().kind(),
        Some(ErrorKind::ERROR_KIND_INVALID)
    );
    let (stdio, _) = crate::place::output();
    let request = exec_request("room", "x", &with_terminal(process(&["true"])), stdio);
    assert_eq!(
        place.client.exec(request).unwrap_err().kind(),
        Some(ErrorKind::ERROR_KIND_INVALID)
    );
    place
        .client
        .exec(exec_request(
            "room",
            "x",
            &process(&["sleep", "9"]),
            Stdio::default(),
        ))
        .unwrap();
    let error = place
        .client
        .resize(&ProcessId::exec("room", "x"), 1, 1)
        .unwrap_err();
    assert_eq!(error.kind(), Some(ErrorKind::ERROR_KIND_STATE));
}
