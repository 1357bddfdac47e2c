//! A client whose agent is played by the test, message by message.

#![allow(clippy::arithmetic_side_effects)]

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};

use super::*;

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(20);
/// As long as a deadline is that is to be missed.
const SHORT: Duration = Duration::from_millis(100);

/// The other end of a client's connection.
struct Played {
    socket: UnixStream,
}

impl Played {
    /// The next request.
    fn next(&mut self) -> io::Result<(u32, Request)> {
        let mut header = [0; frame::HEADER];
        self.socket.read_exact(&mut header)?;
        let [l0, l1, l2, l3, s0, s1, s2, s3, kind, flags] = header;
        assert_eq!((kind, flags), (1, 0));
        let length = u32::from_be_bytes([l0, l1, l2, l3]);
        let mut body = vec![0; length as usize];
        self.socket.read_exact(&mut body)?;
        let stream = u32::from_be_bytes([s0, s1, s2, s3]);
        Ok((stream, Request::parse_from_bytes(&body).unwrap()))
    }

    fn answer(&mut self, stream: u32, answer: &impl Message) {
        self.socket.write_all(&response(stream, answer)).unwrap();
    }

    /// Answers a request for a container's state with that container's id.
    fn echo(&mut self, stream: u32, request: &Request) {
        assert_eq!(
            (request.service.as_str(), request.method.as_str()),
            (SERVICE, "State")
        );
        let asked = v1::StateRequest::parse_from_bytes(&request.payload).unwrap();
        self.answer(stream, &state(&asked.id));
    }

    fn is_closed(&mut self) -> bool {
        self.socket.set_read_timeout(Some(LONG)).unwrap();
        matches!(self.socket.read(&mut [0]), Ok(0))
    }
}

fn state(id: &str) -> v1::ContainerState {
    v1::ContainerState {
        id: id.to_owned(),
        ..Default::default()
    }
}

fn response(stream: u32, answer: &impl Message) -> Vec<u8> {
    let response = Response {
        payload: answer.write_to_bytes().unwrap(),
        ..Default::default()
    };
    framed(stream, &response.write_to_bytes().unwrap())
}

fn framed(stream: u32, body: &[u8]) -> Vec<u8> {
    let mut message = frame::request(stream, body);
    message[8] = frame::RESPONSE;
    message
}

/// A client that has shaken hands, and its other end.
fn connected() -> (AgentClient, Played) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut played = Played { socket: theirs };
    let greeting = thread::spawn(move || {
        let (stream, request) = played.next().unwrap();
        assert_eq!(request.method, "Version");
        let version = v1::VersionResponse {
            protocol_major: PROTOCOL_MAJOR,
            ..Default::default()
        };
        played.answer(stream, &version);
        played
    });
    let client = connect(ours).unwrap().with_deadline(LONG);
    (client, greeting.join().unwrap())
}

/// Asks for the state of a container, in a thread of its own.
fn ask(client: &AgentClient, id: &str) -> thread::JoinHandle<Result<v1::ContainerState, ClientError>> {
    let (client, id) = (client.clone(), id.to_owned());
    thread::spawn(move || client.state(&id))
}

fn is_deadline<T>(outcome: &Result<T, ClientError>) -> bool {
    matches!(outcome, Err(ClientError::Deadline { .. }))
}

#[test]
fn answers_find_their_calls_in_any_order() {
    let (client, mut played) = connected();
    let ids = ["a", "b", "c", "d"];
    let asked = ids.map(|id| ask(&client, id));
    let mut requests: Vec<_> = ids.iter().map(|_| played.next().unwrap()).collect();
    requests.sort_by_key(|(stream, _)| std::cmp::Reverse(*stream));
    for (stream, request) in &requests {
        assert_eq!(request.timeout_nano, i64::try_from(LONG.as_nanos()).unwrap());
        played.echo(*stream, request);
    }
    for (id, answer) in ids.into_iter().zip(asked) {
        assert_eq!(answer.join().unwrap().unwrap().id, id);
    }
}

#[test]
fn an_answer_may_come_byte_by_byte() {
    let (client, mut played) = connected();
    let asked = ask(&client, "web");
    let (stream, _) = played.next().unwrap();
    for byte in response(stream, &state("web")) {
        played.socket.write_all(&[byte]).unwrap();
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(asked.join().unwrap().unwrap().id, "web");
}

#[test]
fn a_refusal_is_the_agents() {
    let (client, mut played) = connected();
    let asked = ask(&client, "web");
    let (stream, _) = played.next().unwrap();
    let refusal = AgentError::new(ErrorKind::ERROR_KIND_NOT_FOUND, "no container web");
    let response = Response {
        status: Some(refusal.to_envelope()).into(),
        ..Default::default()
    };
    played
        .socket
        .write_all(&framed(stream, &response.write_to_bytes().unwrap()))
        .unwrap();
    let outcome = asked.join().unwrap();
    assert!(matches!(outcome, Err(ClientError::Agent(error)) if error == refusal));
}

/// What a client says of an agent that answers these bytes, and of the next call.
fn answered(bytes: &[u8]) -> [ConnectionError; 2] {
    let (client, mut played) = connected();
    let asked = ask(&client, "web");
    played.next().unwrap();
    played.socket.write_all(bytes).unwrap();
    let first = asked.join().unwrap();
    assert!(played.is_closed());
    [first, client.state("web")].map(|outcome| match outcome {
        Err(ClientError::Connection {
            call: "State",
            source,
        }) => source,
        other => panic!("{other:?}"),
    })
}

#[test]
fn garbage_ends_the_connection_for_good() {
    let errors = answered(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    assert!(
        errors
            .iter()
            .all(|error| matches!(error, ConnectionError::Type(b' '))),
        "{errors:?}"
    );
    let errors = answered(&[0, 0, 0, 0, 0, 0, 0, 3, 1, 0]);
    assert!(
        errors
            .iter()
            .all(|error| matches!(error, ConnectionError::Type(1))),
        "{errors:?}"
    );
}

#[test]
fn a_length_that_cannot_be_ends_the_connection_for_good() {
    let errors = answered(b"\xff\xff\xff\xff\0\0\0\x03\x02\0");
    assert!(
        errors
            .iter()
            .all(|error| matches!(error, ConnectionError::TooLong(u32::MAX))),
        "{errors:?}"
    );
}

#[test]
fn an_answer_that_is_none_concerns_its_call_alone() {
    let (client, mut played) = connected();
    let asked = ask(&client, "web");
    let (stream, _) = played.next().unwrap();
    played.socket.write_all(&framed(stream, &[0xff; 5])).unwrap();
    let outcome = asked.join().unwrap();
    let source = match outcome {
        Err(ClientError::Connection { source, .. }) => source,
        other => panic!("{other:?}"),
    };
    assert!(matches!(source, ConnectionError::Answer(_)), "{source}");
    let asked = ask(&client, "db");
    let (stream, request) = played.next().unwrap();
    played.echo(stream, &request);
    assert_eq!(asked.join().unwrap().unwrap().id, "db");
}

#[test]
fn whoever_waits_is_told_of_the_end_in_the_middle_of_an_answer() {
    let (client, mut played) = connected();
    let asked = ["a", "b", "c"].map(|id| ask(&client, id));
    let waiting = thread::spawn({
        let client = client.clone();
        move || client.wait(&"a".into(), None).map(|_| v1::ContainerState::new())
    });
    let requests = [(); 4].map(|()| played.next().unwrap());
    let answer = response(requests[0].0, &state("a"));
    played.socket.write_all(&answer[..answer.len() - 1]).unwrap();
    drop(played);
    for asked in asked.into_iter().chain([waiting]) {
        let outcome = asked.join().unwrap();
        let closed = matches!(
            &outcome,
            Err(ClientError::Connection {
                source: ConnectionError::Closed,
                ..
            })
        );
        assert!(closed, "{outcome:?}");
    }
    assert!(client.health().is_err());
}

#[test]
fn many_threads_call_at_once() {
    const THREADS: usize = 24;
    const CALLS: usize = 100;
    let (client, mut played) = connected();
    let callers: Vec<_> = (0..THREADS)
        .map(|thread| {
            let client = client.clone();
            thread::spawn(move || {
                for call in 0..CALLS {
                    // Some are longer than a socket holds.
                    let length = if call % 10 == 9 { call * call * 30 } else { call };
                    let id = format!("{thread}-{call}-{}", "x".repeat(length));
                    assert_eq!(client.state(&id).unwrap().id, id);
                }
            })
        })
        .collect();
    let server = thread::spawn(move || {
        let soon = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 5_000_000,
        };
        let mut held = Vec::new();
        for _ in 0..THREADS * CALLS {
            held.push(played.next().unwrap());
            let mut more = [PollFd::new(&played.socket, PollFlags::IN)];
            // Out of order, unless nobody else calls.
            if held.len() == 5 || poll(&mut more, Some(&soon)) == Ok(0) {
                for (stream, request) in held.drain(..).rev() {
                    played.echo(stream, &request);
                }
            }
        }
        for (stream, request) in held {
            played.echo(stream, &request);
        }
    });
    for caller in callers {
        caller.join().unwrap();
    }
    server.join().unwrap();
}

#[test]
fn a_silent_agent_is_left_at_the_deadline() {
    let (client, played) = connected();
    let begun = Instant::now();
    let outcome = client.clone().with_deadline(SHORT).health();
    assert!(is_deadline(&outcome), "{outcome:?}");
    assert!(
        (SHORT..LONG / 2).contains(&begun.elapsed()),
        "{:?}",
        begun.elapsed()
    );
    let text = outcome.unwrap_err().to_string();
    assert_eq!(text, "the agent did not answer Health within 100 ms");
    // Also while somebody else reads, who has more time.
    let patient = client.clone();
    let waiting = thread::spawn(move || patient.wait(&"web".into(), None));
    thread::sleep(SHORT);
    let begun = Instant::now();
    assert!(is_deadline(&client.with_deadline(SHORT).health()));
    assert!(
        (SHORT..LONG / 2).contains(&begun.elapsed()),
        "{:?}",
        begun.elapsed()
    );
    drop(played);
    let outcome = waiting.join().unwrap();
    assert!(
        matches!(outcome, Err(ClientError::Connection { call: "Wait", .. })),
        "{outcome:?}"
    );
}

#[test]
fn a_late_answer_disturbs_nobody() {
    let (client, mut played) = connected();
    let hasty = client.clone().with_deadline(SHORT);
    assert!(is_deadline(&hasty.state("late")));
    let (late, request) = played.next().unwrap();
    played.echo(late, &request);
    let asked = ask(&client, "next");
    let (stream, request) = played.next().unwrap();
    assert_ne!(stream, late);
    // Nor do a second one, and answers to calls that there never were.
    for stream in [late, 0, 2, u32::MAX, stream, stream] {
        played.answer(stream, &state(if stream == late { "late" } else { "next" }));
    }
    assert_eq!(asked.join().unwrap().unwrap().id, "next");
    let asked = ask(&client, "last");
    let (stream, again) = played.next().unwrap();
    assert_eq!(again.method, request.method);
    played.echo(stream, &again);
    assert_eq!(asked.join().unwrap().unwrap().id, "last");
}

#[test]
fn when_the_one_who_reads_leaves_another_one_reads() {
    let (client, mut played) = connected();
    // Reads first, and is answered first.
    let first = ask(&client, "first");
    let (first_stream, first_request) = played.next().unwrap();
    thread::sleep(SHORT / 2);
    // Reads next, and is never answered.
    let hasty = client.clone().with_deadline(SHORT * 2);
    let second = thread::spawn(move || hasty.state("second"));
    played.next().unwrap();
    thread::sleep(SHORT / 2);
    let third = ask(&client, "third");
    let (third_stream, third_request) = played.next().unwrap();
    played.echo(first_stream, &first_request);
    assert_eq!(first.join().unwrap().unwrap().id, "first");
    assert!(is_deadline(&second.join().unwrap()));
    played.echo(third_stream, &third_request);
    assert_eq!(third.join().unwrap().unwrap().id, "third");
}

#[test]
fn an_agent_that_does_not_read_holds_nobody_beyond_the_deadline() {
    let (client, mut played) = connected();
    let request = v1::CreateRequest {
        config: vec![0; 3 << 20],
        ..Default::default()
    };
    let patient = client.clone().with_deadline(SHORT * 20);
    let long = thread::spawn(move || patient.create(request));
    thread::sleep(SHORT);
    // It waits for its turn to write.
    let begun = Instant::now();
    assert!(is_deadline(&client.clone().with_deadline(SHORT).health()));
    assert!(begun.elapsed() < SHORT * 15, "{:?}", begun.elapsed());
    assert!(is_deadline(&long.join().unwrap()));
    // Half a request has gone, so nothing can follow.
    let outcome = client.health();
    let stuck = matches!(
        &outcome,
        Err(ClientError::Connection {
            source: ConnectionError::Stuck,
            ..
        })
    );
    assert!(stuck, "{outcome:?}");
    let mut rest = Vec::new();
    played.socket.read_to_end(&mut rest).unwrap();
    assert!(rest.len() < 3 << 20);
}

#[test]
fn an_agent_that_never_stops_talking_holds_nobody_beyond_the_deadline() {
    let (client, mut played) = connected();
    let talking = thread::spawn(move || {
        let noise = framed(1000, &[0; 100]).repeat(50);
        while played.socket.write_all(&noise).is_ok() {}
    });
    let begun = Instant::now();
    assert!(is_deadline(&client.with_deadline(SHORT).health()));
    assert!(begun.elapsed() < LONG / 2, "{:?}", begun.elapsed());
    // The client was the last one: its connection is closed.
    talking.join().unwrap();
}

#[test]
fn a_request_that_is_too_long_is_not_sent() {
    let (client, mut played) = connected();
    let error = client.update("web", vec![0; 5 << 20]).unwrap_err();
    assert_eq!(error.kind(), Some(ErrorKind::ERROR_KIND_INVALID));
    assert!(error.to_string().contains("the most is 4194304"), "{error}");
    let asked = ask(&client, "web");
    let (stream, request) = played.next().unwrap();
    played.echo(stream, &request);
    asked.join().unwrap().unwrap();
}

#[test]
fn a_client_has_no_threads() {
    // Threads without a name of their own bear that of who starts them.
    let named = thread::Builder::new().name("only one".to_owned()).spawn(|| {
        let (client, _played) = connected();
        let client = client.with_deadline(SHORT);
        assert!(is_deadline(&client.health()));
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        names.filter(|name| name == "only one\n").count()
    });
    assert_eq!(named.unwrap().join().unwrap(), 1);
}

#[test]
fn whoever_waits_sleeps() {
    let (client, mut played) = connected();
    let (sender, receiver) = mpsc::channel();
    let waiting = thread::spawn(move || {
        sender
            .send(std::fs::read_link("/proc/thread-self").unwrap())
            .unwrap();
        client.wait(&"web".into(), None)
    });
    let status = std::path::Path::new("/proc")
        .join(receiver.recv().unwrap())
        .join("status");
    let (stream, request) = played.next().unwrap();
    assert_eq!(request.timeout_nano, 0);
    let line = |name: &str| {
        let text = std::fs::read_to_string(&status).unwrap();
        let line = text.lines().find(|line| line.starts_with(name));
        line.unwrap().to_owned()
    };
    let woken = || line("voluntary_ctxt_switches");
    // A slow host takes its time until it sleeps.
    let begun = Instant::now();
    let mut before = woken();
    loop {
        assert!(begun.elapsed() < LONG, "it does not sleep");
        thread::sleep(SHORT);
        let now = woken();
        if now == before && line("State:").contains('S') {
            break;
        }
        before = now;
    }
    thread::sleep(SHORT * 5);
    assert_eq!(woken(), before);
    played.answer(stream, &v1::WaitResponse::new());
    waiting.join().unwrap().unwrap();
}
