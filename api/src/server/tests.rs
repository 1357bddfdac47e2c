//! The server on a real event loop, met by well-behaved clients and others.

#![allow(clippy::arithmetic_side_effects)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use event_manager::{EventManager, SubscriberOps};
use vmm_sys_util::tempdir::TempDir;

use super::*;
use crate::action::{Action, Outcome};
use crate::client::Client;
use crate::config::MachineConfig;
use crate::error::ActionError;
use crate::http::Method;
use crate::instance::VersionInfo;

const PATIENCE: Duration = Duration::from_secs(10);

/// A server on a thread of its own, with a handler that remembers what it was asked.
struct Running {
    dir: TempDir,
    stop: Arc<AtomicBool>,
    asked: Arc<Mutex<Vec<Action>>>,
    connections: Arc<AtomicUsize>,
    /// How often the event loop woke up.
    turns: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn new(limits: Limits) -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.as_path().join("api.sock");
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (connections, turns) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (ready, wait) = std::sync::mpsc::channel();
        let (stop2, asked2, connections2, turns2) =
            (stop.clone(), asked.clone(), connections.clone(), turns.clone());
        let thread = thread::spawn(move || {
            let handler = move |action: Action| {
                asked2.lock().unwrap().push(action.clone());
                match action {
                    Action::GetVersion => Ok(Outcome::Version(VersionInfo::default())),
                    Action::GetMachineConfig => Ok(Outcome::MachineConfig(MachineConfig::default())),
                    action => action.check_phase(false).map(|()| Outcome::Empty),
                }
            };
            let server = ApiServer::bind(&path, limits, handler).unwrap();
            let mut manager = EventManager::new().unwrap();
            let id = manager.add_subscriber(server);
            ready.send(()).unwrap();
            while !stop2.load(Ordering::Relaxed) {
                let events = manager.run_with_timeout(10).unwrap();
                turns2.fetch_add(events.min(1), Ordering::Relaxed);
                connections2.store(
                    manager.subscriber_mut(id).unwrap().connections(),
                    Ordering::Relaxed,
                );
            }
        });
        wait.recv().unwrap();
        Self {
            dir,
            stop,
            asked,
            connections,
            turns,
            thread: Some(thread),
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.as_path().join("api.sock")
    }

    fn client(&self) -> Client {
        Client::connect(&self.path(), PATIENCE).unwrap()
    }

    fn raw(&self) -> UnixStream {
        let stream = UnixStream::connect(self.path()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn is_well(&self) {
        assert_eq!(self.client().get("/version").unwrap().status, 200);
    }

    fn wait_for_connections(&self, count: usize) {
        let start = Instant::now();
        while self.connections.load(Ordering::Relaxed) != count {
            assert!(
                start.elapsed() < PATIENCE,
                "{} connections",
                self.connections.load(Ordering::Relaxed)
            );
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Fails if the event loop is busy while nothing happens.
    fn is_at_rest(&self) {
        let before = self.turns.load(Ordering::Relaxed);
        thread::sleep(Duration::from_millis(100));
        let turns = self.turns.load(Ordering::Relaxed) - before;
        assert!(turns <= 12, "{turns} turns in 100 ms");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let result = self.thread.take().unwrap().join();
        if !thread::panicking() {
            result.unwrap();
            assert!(!self.path().exists(), "the socket's file stayed");
        }
    }
}

fn hasty() -> Limits {
    Limits {
        unfinished: Duration::from_millis(80),
        linger: Duration::from_millis(80),
        ..Limits::default()
    }
}

#[test]
fn a_session_over_one_connection() {
    let server = Running::new(Limits::default());
    let mut client = server.client();
    let version = client.get("/version").unwrap();
    assert_eq!(
        (version.status, version.header("content-type")),
        (200, Some("application/json"))
    );
    assert_eq!(version.header("connection"), Some("keep-alive"));
    assert_eq!(version.json::<VersionInfo>().unwrap(), VersionInfo::default());
    assert_eq!(
        client
            .put("/boot-source", r#"{"kernel_image_path":"k"}"#)
            .unwrap()
            .status,
        204
    );
    let refused = client.patch("/vm", r#"{"state":"Paused"}"#).unwrap();
    assert_eq!(refused.status, 400);
    assert_eq!(
        refused.fault_message().unwrap(),
        "The requested operation is not supported before starting the microVM."
    );
    let fault = client.request(Method::Get, "/version", Some("{}")).unwrap();
    assert_eq!(fault.fault_message().unwrap(), "GET request cannot have a body.");
    let deprecated = client
        .patch("/machine-config", r#"{"cpu_template":"None"}"#)
        .unwrap();
    assert_eq!(
        (deprecated.status, deprecated.header("deprecation")),
        (204, Some("true"))
    );
    assert_eq!(server.asked.lock().unwrap().len(), 4);
    drop(client);
    server.wait_for_connections(0);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Running::new(Limits::default());
    let stream = server.raw();
    let mut sender = stream.try_clone().unwrap();
    const COUNT: usize = 5000;
    let writer = thread::spawn(move || {
        for index in 0..COUNT {
            let path = if index % 2 == 0 {
                "version"
            } else {
                "machine-config"
            };
            sender
                .write_all(format!("GET /{path} HTTP/1.1\r\n\r\n").as_bytes())
                .unwrap();
        }
        sender
    });
    // Far more than the buffers between the two hold, so the server has to wait for this reader.
    thread::sleep(Duration::from_millis(50));
    let mut reader = BufReader::new(stream);
    for index in 0..COUNT {
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if let Some(value) = line.strip_prefix("Content-Length: ") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let key = if index % 2 == 0 {
            "firecracker_version"
        } else {
            "vcpu_count"
        };
        assert!(String::from_utf8(body).unwrap().contains(key), "answer {index}");
    }
    writer.join().unwrap();
    server.is_at_rest();
}

#[test]
fn a_client_that_shuts_its_side_still_gets_answers() {
    let server = Running::new(Limits::default());
    let mut stream = server.raw();
    stream
        .write_all(b"GET /version HTTP/1.1\r\n\r\nGET /version HTTP/1.1\r\n\r\nGET /ver")
        .unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 2);
    server.wait_for_connections(0);
}

#[test]
fn a_client_that_leaves_at_once_is_still_heard() {
    let server = Running::new(Limits::default());
    server
        .raw()
        .write_all(b"PUT /entropy HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}")
        .unwrap();
    server.wait_for_connections(0);
    let start = Instant::now();
    while server.asked.lock().unwrap().is_empty() {
        assert!(start.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(2));
    }
    server.is_well();
}

#[test]
fn a_refused_body_can_still_be_sent_and_the_answer_read() {
    let server = Running::new(Limits::default());
    let mut client = server.client();
    // More than the socket's buffers hold: a server that just closed would break the client's writes.
    let response = client.put("/drives/a", &"x".repeat(900_000)).unwrap();
    assert_eq!(
        (response.status, response.header("connection")),
        (400, Some("close"))
    );
    assert_eq!(
        response.fault_message().unwrap(),
        "Request payload with size 900000 is larger than the limit of 51200 allowed by server."
    );
    drop(client);
    server.wait_for_connections(0);
}

#[test]
fn an_endless_refused_body_is_cut_off() {
    let server = Running::new(hasty());
    let mut stream = server.raw();
    stream
        .write_all(b"PUT /a HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n")
        .unwrap();
    let start = Instant::now();
    while stream.write_all(&[b'x'; 4096]).is_ok() {
        assert!(start.elapsed() < PATIENCE, "the server takes all of it");
    }
    server.wait_for_connections(0);
}

#[test]
fn nonsense_is_answered_and_ended() {
    let server = Running::new(hasty());
    for nonsense in [
        &b"\x16\x03\x01\x02\0"[..],
        b"GET / HTTP/9\r\n\r\n",
        b"OPTIONS / HTTP/1.1\r\n\r\n",
        b"PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"PUT /a HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        &b"X-Filler: x\r\n".repeat(1000),
    ] {
        let mut stream = server.raw();
        stream.write_all(nonsense).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(
            text.starts_with("HTTP/1.1 400") || text.starts_with("HTTP/1.1 501"),
            "{text}"
        );
        assert!(
            text.contains("Connection: close") && text.contains("{\"fault_message\":"),
            "{text}"
        );
    }
    server.wait_for_connections(0);
    server.is_well();
}

#[test]
fn a_slow_request_does_not_hold_up_others_and_ends_in_time() {
    let server = Running::new(hasty());
    let mut slow = server.raw();
    let start = Instant::now();
    for byte in b"GET /version HTTP/1.1\r\nX: 1234567890" {
        // Once the server has given up, writing fails.
        let _ = slow.write_all(&[*byte]);
        server.is_well();
        thread::sleep(Duration::from_millis(5));
    }
    let mut text = String::new();
    let _ = slow.read_to_string(&mut text);
    assert!(text.starts_with("HTTP/1.1 408"), "{text}");
    assert!(start.elapsed() < PATIENCE);
    server.wait_for_connections(0);
    server.is_at_rest();
}

#[test]
fn a_client_that_never_reads_is_ended() {
    let server = Running::new(hasty());
    let mut stream = server.raw();
    stream.set_write_timeout(Some(Duration::from_millis(20))).unwrap();
    let requests = b"GET /machine-config HTTP/1.1\r\n\r\n".repeat(100);
    let start = Instant::now();
    // The socket fills up, and after the deadline it breaks.
    while !matches!(stream.write(&requests), Err(err) if err.kind() == ErrorKind::BrokenPipe) {
        assert!(start.elapsed() < PATIENCE, "still connected");
    }
    server.wait_for_connections(0);
}

#[test]
fn an_idle_connection_stays() {
    let server = Running::new(hasty());
    let mut client = server.client();
    client.get("/version").unwrap();
    thread::sleep(Duration::from_millis(300));
    assert_eq!(client.get("/version").unwrap().status, 200);
    server.is_at_rest();
}

#[test]
fn a_newcomer_takes_the_place_of_the_longest_idle() {
    let server = Running::new(Limits {
        connections: 3,
        ..Limits::default()
    });
    let mut clients: Vec<Client> = (0..3).map(|_| server.client()).collect();
    for client in &mut clients {
        client.get("/version").unwrap();
    }
    clients[0].get("/version").unwrap();
    let mut newcomer = server.client();
    assert_eq!(newcomer.get("/version").unwrap().status, 200);
    assert!(
        clients[1].get("/version").is_err(),
        "the longest idle is still there"
    );
    assert_eq!(clients[0].get("/version").unwrap().status, 200);
    assert_eq!(clients[2].get("/version").unwrap().status, 200);
}

#[test]
fn with_all_busy_a_newcomer_is_told() {
    let server = Running::new(Limits {
        connections: 2,
        ..Limits::default()
    });
    let mut busy = [server.raw(), server.raw()];
    for stream in &mut busy {
        stream.write_all(b"GET /ver").unwrap();
    }
    server.wait_for_connections(2);
    thread::sleep(Duration::from_millis(50));
    let mut text = String::new();
    let mut newcomer = server.raw();
    newcomer.read_to_string(&mut text).unwrap();
    assert!(
        text.starts_with("HTTP/1.1 503") && text.contains("Too many open connections"),
        "{text}"
    );
    // Those that were there go on.
    busy[1]
        .write_all(b"sion HTTP/1.1\r\nConnection: close\r\n\r\n")
        .unwrap();
    text.clear();
    busy[1].read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
}

#[test]
fn many_connections_come_and_go() {
    let server = Running::new(Limits::default());
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let path = server.path();
            thread::spawn(move || {
                for _ in 0..200 {
                    let mut client = Client::connect(&path, PATIENCE).unwrap();
                    assert_eq!(client.get("/version").unwrap().status, 200);
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().unwrap();
    }
    server.wait_for_connections(0);
    server.is_at_rest();
}

#[test]
fn a_handler_can_be_any_type() {
    struct Nobody;
    impl ActionHandler for Nobody {
        fn handle(&mut self, _: Action) -> Result<Outcome, ActionError> {
            Err(ActionError::NotSupportedAfterStart)
        }
    }
    let dir = TempDir::new().unwrap();
    let path = dir.as_path().join("s");
    let mut server = ApiServer::bind(&path, Limits::default(), Nobody).unwrap();
    let err = server.handler_mut().handle(Action::GetVersion).unwrap_err();
    assert!(matches!(err, ActionError::NotSupportedAfterStart));
    assert!(matches!(
        ApiServer::bind(&path, Limits::default(), Nobody),
        Err(BindError::InUse { .. })
    ));
}
