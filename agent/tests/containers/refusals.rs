//! What is refused, how, and that nothing is left of it.

use std::io::{Read, Write};
use std::time::Duration;

use koya_proto::client::{ClientError, connect_as};
use koya_proto::error::ErrorKind;
use koya_proto::v1::{CreateRequest, RootFilesystem};
use serde_json::{Value, json};

use crate::place::{LONG, Place, config, exec_request, process};

fn refused(place: &Place, request: CreateRequest) -> (ErrorKind, String) {
    let id = request.id.clone();
    let error = place.client.create(request).unwrap_err();
    if id == "room" {
        place.assert_gone(&id);
    }
    (error.kind().unwrap(), error.to_string())
}

fn refused_config(place: &Place, config: &Value) -> (ErrorKind, String) {
    refused(place, place.request("room", config))
}

#[test]
fn another_major_version_is_refused_with_both_numbers() {
    let place = Place::new();
    let error = connect_as(place.socket(), 2, 0, LONG).err().unwrap();
    assert_eq!(error.kind(), Some(ErrorKind::ERROR_KIND_VERSION));
    let text = error.to_string();
    assert!(text.contains("version 1") && text.contains('2'), "{text}");
    let version = place.client.version();
    assert_eq!(
        (version.protocol_major, version.agent.as_str()),
        (1, env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn nothing_is_answered_before_the_handshake() {
    let place = Place::new();
    let client = ttrpc::Client::new(std::os::fd::IntoRawFd::into_raw_fd(place.socket())).unwrap();
    let mut request = ttrpc::Request::new();
    request.service = koya_proto::SERVICE.to_owned();
    request.method = "List".to_owned();
    match client.request(request) {
        Err(ttrpc::Error::RpcStatus(status)) => assert!(status.message.contains("Version"), "{status:?}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn garbage_ends_its_own_connection_only() {
    let place = Place::new();
    let mut socket = place.socket();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket.write_all(&[0xff; 64]).unwrap();
    // Closed, with bytes unread: an end or a reset.
    assert!(matches!(socket.read(&mut [0; 1]), Ok(0) | Err(_)));
    place.client.health().unwrap();
}

#[test]
fn bad_configurations_are_named() {
    let place = Place::new();
    let mut request = place.request("room", &config(&["true"]));
    request.config = b"{ nonsense".to_vec();
    let (kind, text) = refused(&place, request);
    assert_eq!(kind, ErrorKind::ERROR_KIND_INVALID);
    assert!(text.contains("config is not JSON"), "{text}");
    let without = |pointer: &str, value: Value| {
        let mut config = config(&["true"]);
        *config.pointer_mut(pointer).unwrap() = value;
        refused_config(&place, &config)
    };
    assert_eq!(without("/process", Value::Null).0, ErrorKind::ERROR_KIND_INVALID);
    assert_eq!(
        without("/process/args", json!([])).0,
        ErrorKind::ERROR_KIND_INVALID
    );
    assert_eq!(
        without("/linux/namespaces", json!([{ "type": "moon" }])).0,
        ErrorKind::ERROR_KIND_INVALID
    );
    // Well-formed, but not possible.
    let (kind, text) = without("/process/cwd", json!("/no/such/folder"));
    assert_eq!(kind, ErrorKind::ERROR_KIND_RUNTIME, "{text}");
    let (kind, text) = without("/mounts/0/type", json!("no-such-filesystem"));
    assert!(text.contains("no-such-filesystem"), "{text}");
    assert_eq!(kind, ErrorKind::ERROR_KIND_RUNTIME, "{text}");
}

#[test]
fn missing_and_unexecutable_programs_are_told_apart() {
    let place = Place::new();
    let (kind, text) = refused_config(&place, &config(&["no-such-program"]));
    assert_eq!(kind, ErrorKind::ERROR_KIND_EXECUTABLE_MISSING, "{text}");
    assert_eq!(text, "no program 'no-such-program' in the container's PATH");
    assert_eq!(
        refused_config(&place, &config(&["/etc/text"])).0,
        ErrorKind::ERROR_KIND_NOT_EXECUTABLE
    );
    // A script whose interpreter is missing is noticed when it starts.
    std::fs::write(format!("{}/bin/script", place.root), "#!/no/interpreter\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(format!("{}/bin/script", place.root), mode).unwrap();
    assert_eq!(place.run("room", &config(&["script"])).0, 127);
}

#[test]
fn ids_and_roots_are_checked() {
    let place = Place::new();
    for id in ["", "..", "a/b"] {
        assert_eq!(
            refused(&place, place.request(id, &config(&["true"]))).0,
            ErrorKind::ERROR_KIND_INVALID
        );
    }
    let mut request = place.request("room", &config(&["true"]));
    request.root = Some(RootFilesystem::default()).into();
    assert_eq!(refused(&place, request).0, ErrorKind::ERROR_KIND_INVALID);
    place.sleeper("room");
    let error = place
        .client
        .create(place.request("room", &config(&["true"])))
        .unwrap_err();
    assert_eq!(error.kind(), Some(ErrorKind::ERROR_KIND_EXISTS));
}

#[test]
fn unknown_ids_are_not_found() {
    let place = Place::new();
    let client = &place.client;
    let exec = exec_request("nobody", "x", &process(&["true"]), Default::default());
    let errors = [
        client.start("nobody").unwrap_err(),
        client.state("nobody").unwrap_err(),
        client.wait(&"nobody".into(), None).unwrap_err(),
        client.signal(&"nobody".into(), 9).unwrap_err(),
        client.stats("nobody").unwrap_err(),
        client.pause("nobody").unwrap_err(),
        client.delete("nobody", true).unwrap_err(),
        client.exec(exec).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), Some(ErrorKind::ERROR_KIND_NOT_FOUND), "{error}");
        assert!(error.to_string().contains("'nobody'"), "{error}");
    }
}

#[test]
fn what_the_state_does_not_allow_is_refused() {
    let place = Place::new();
    let client = &place.client;
    client
        .create(place.request("room", &config(&["sleep", "1000"])))
        .unwrap();
    let state = |outcome: Result<(), ClientError>| {
        assert_eq!(outcome.unwrap_err().kind(), Some(ErrorKind::ERROR_KIND_STATE));
    };
    let exec = || {
        client
            .exec(exec_request("room", "x", &process(&["true"]), Default::default()))
            .map(drop)
    };
    state(exec());
    state(client.pause("room"));
    client.start("room").unwrap();
    state(client.start("room"));
    state(client.resume("room"));
    state(client.delete("room", false));
    client.signal(&"room".into(), 9).unwrap();
    client.wait(&"room".into(), Some(LONG)).unwrap();
    state(client.start("room"));
    state(exec());
    state(client.shutdown(koya_proto::v1::ShutdownKind::SHUTDOWN_KIND_POWEROFF));
}

#[test]
fn a_deadline_is_kept() {
    let place = Place::new();
    place.sleeper("room");
    let begun = std::time::Instant::now();
    let error = place
        .client
        .wait(&"room".into(), Some(Duration::from_millis(300)))
        .unwrap_err();
    assert_eq!(error.kind(), Some(ErrorKind::ERROR_KIND_DEADLINE));
    assert!((300..5000).contains(&begun.elapsed().as_millis()));
    // One who waits is told when the container goes away.
    let client = place.client.clone();
    let waiting = std::thread::spawn(move || client.wait(&"room".into(), None));
    std::thread::sleep(Duration::from_millis(200));
    place.client.delete("room", true).unwrap();
    assert_eq!(waiting.join().unwrap().unwrap().code, 137);
}
