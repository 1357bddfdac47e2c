//! Where the API socket cannot be.

use std::fs;
use std::os::unix::fs::symlink;

use koya_api::http::Method;
use koya_tests::vm::Scratch;
use serde_json::json;

use super::{assert_names, refusal, refused_arguments};
use crate::support::{Monitor, config};

#[test]
fn a_socket_path_that_exists() {
    let scratch = Scratch::new();
    let file = scratch.file("precious", "mine");
    let path = file.display().to_string();
    let names = [
        "Failed to open the API socket at: ",
        &path,
        "Check that it is not already used",
    ];
    refused_arguments(&["--api-sock", &path], &names);
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    // A link to nowhere is something, too.
    let link = scratch.path("link");
    symlink("/nowhere", &link).unwrap();
    let link = link.display().to_string();
    refused_arguments(&["--api-sock", &link], &[&link, "not already used"]);
}

#[test]
fn a_socket_path_that_another_monitor_has() {
    let first = Monitor::start();
    let path = first.socket().display().to_string();
    refused_arguments(&["--api-sock", &path], &[&path, "not already used"]);
    assert_eq!(first.state(), "Not started");
}

/// The socket is bound before the guest starts, so that a guest never runs without the socket it was to have.
#[test]
fn a_socket_path_that_exists_with_a_guest_to_start() {
    let scratch = Scratch::new();
    let socket = scratch.file("api.sock", "").display().to_string();
    let file = scratch.file("vm.json", config("hello", "", json!({})).to_string());
    let line = refusal(|| {
        let mut command = std::process::Command::new(koya_tests::vm::vmm_binary());
        command.args(["--api-sock", &socket, "--config-file"]).arg(&file);
        command
    });
    assert_names(&line, &[&socket, "not already used"]);
}

#[test]
fn a_socket_path_that_is_too_long() {
    let scratch = Scratch::new();
    let path = scratch.path(&"x".repeat(200)).display().to_string();
    let length = format!("has {} bytes", path.len());
    refused_arguments(&["--api-sock", &path], &[&path, &length, "1 to 107"]);
    refused_arguments(&["--api-sock", ""], &["has 0 bytes", "1 to 107"]);
}

#[test]
fn a_socket_in_a_missing_folder() {
    let scratch = Scratch::new();
    let folder = scratch.path("none").display().to_string();
    let path = format!("{folder}/api.sock");
    refused_arguments(&["--api-sock", &path], &[&path, &folder, "does not exist"]);
    let file = scratch.file("file", "").display().to_string();
    let path = format!("{file}/api.sock");
    refused_arguments(&["--api-sock", &path], &[&path, "Not a directory"]);
}

#[test]
fn a_vsock_path_that_exists_stays_as_it_is() {
    let scratch = Scratch::new();
    let file = scratch.file("precious", "mine");
    let monitor = Monitor::start();
    let vsock = json!({ "guest_cid": 3, "uds_path": file }).to_string();
    let fault = monitor.refused(Method::Put, "/vsock", &vsock);
    let begin = "Vsock config error: Cannot create backend for vsock device: cannot listen at";
    assert!(fault.starts_with(begin) && fault.contains("precious"), "{fault}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    // Another path does, also twice.
    let vsock = json!({ "guest_cid": 3, "uds_path": scratch.path("v.sock") });
    monitor.done(Method::Put, "/vsock", &vsock);
    monitor.done(Method::Put, "/vsock", &vsock);
}

#[test]
fn a_shared_folder_that_nobody_serves() {
    let scratch = Scratch::new();
    let monitor = Monitor::start();
    let put = |socket: &std::path::Path| {
        let folder = json!({ "folder_id": "src", "tag": "src", "socket": socket }).to_string();
        monitor.refused(Method::Put, "/shared-folders/src", &folder)
    };
    for (socket, reason) in [
        (scratch.path("missing.sock"), "No such file or directory"),
        (scratch.file("file", "no socket"), "Connection refused"),
        (scratch.path(&"x".repeat(120)), "invalid"),
    ] {
        let fault = put(&socket);
        let begin = "Shared folder config error: shared folder \"src\": cannot connect to the socket";
        assert!(fault.starts_with(begin) && fault.contains(reason), "{fault}");
    }
    // One that speaks something else.
    let talker = scratch.path("talker.sock");
    let listener = std::os::unix::net::UnixListener::bind(&talker).unwrap();
    let talk = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let _ = std::io::Write::write_all(&mut socket, b"220 mail.example.org ESMTP\r\n");
    });
    let fault = put(&talker);
    talk.join().unwrap();
    assert!(fault.contains("did not tell its features"), "{fault}");
    monitor.terminate();
}
