//! "HTTP/1.1 keep-alive, pipelining, partial reads, `Expect: 100-continue`, payload limit (51,200 bytes by default),
//! several connections."

use koya_tests::vm;

use crate::support::Monitor;
use crate::support::http::Raw;

const GET: &str = "GET /version HTTP/1.1\r\n\r\n";

/// A request to set the boot source, with a body of so many bytes.
fn boot_source(bytes: usize) -> (String, String) {
    let kernel = vm::tiny("hello").display().to_string();
    let body = format!(r#"{{"kernel_image_path":"{kernel}","boot_args":"quiet"}}"#);
    let body = format!("{}{body}", " ".repeat(bytes - body.len()));
    let head = format!("PUT /boot-source HTTP/1.1\r\nContent-Length: {}\r\n", body.len());
    (head, body)
}

#[test]
fn a_connection_is_kept_alive() {
    let monitor = Monitor::start();
    let mut raw = Raw::connect(&monitor);
    for _ in 0..100 {
        raw.send(GET);
        let answer = raw.answer();
        assert_eq!(answer.status, 200);
        assert!(answer.head.contains("connection: keep-alive"), "{answer:?}");
    }
    raw.send("GET / HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert!(raw.answer().head.contains("connection: close"));
    assert!(raw.has_ended());
    // A refusal of what a request asks is no reason to hang up.
    let mut refused = Raw::connect(&monitor);
    refused.send("PUT /actions HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}");
    assert_eq!(refused.answer().status, 400);
    refused.send(GET);
    assert_eq!(refused.answer().status, 200);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let monitor = Monitor::start();
    let mut raw = Raw::connect(&monitor);
    let (head, body) = boot_source(500);
    let put = format!("{head}\r\n{body}");
    let actions = "PUT /actions HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}";
    raw.send(format!("{GET}{put}{actions}{GET}").repeat(20));
    for _ in 0..20 {
        for status in [200, 204, 400, 200] {
            assert_eq!(raw.answer().status, status);
        }
    }
    assert!(raw.is_silent());
}

#[test]
fn requests_arrive_in_pieces() {
    let monitor = Monitor::start();
    let mut raw = Raw::connect(&monitor);
    let (head, body) = boot_source(300);
    let request = format!("{head}\r\n{body}{GET}");
    for byte in request.as_bytes() {
        raw.send([*byte]);
    }
    assert_eq!(raw.answer().status, 204);
    assert_eq!(raw.answer().status, 200);
}

#[test]
fn a_body_is_asked_for_when_the_client_waits_for_that() {
    let monitor = Monitor::start();
    let mut raw = Raw::connect(&monitor);
    let (head, body) = boot_source(2000);
    raw.send(format!("{head}Expect: 100-continue\r\n\r\n"));
    assert_eq!(raw.answer().status, 100);
    assert!(raw.is_silent());
    raw.send(body);
    assert_eq!(raw.answer().status, 204);
    // One that will be refused anyway is not asked for.
    let (head, _) = boot_source(60_000);
    raw.send(format!("{head}Expect: 100-continue\r\n\r\n"));
    assert_eq!(raw.answer().status, 400);
    assert!(raw.has_ended());
}

#[test]
fn a_body_has_at_most_51_200_bytes_or_as_many_as_the_command_line_says() {
    for (monitor, limit) in [
        (Monitor::start(), 51_200),
        (Monitor::with(&["--http-api-max-payload-size", "1000"]), 1000),
    ] {
        let mut raw = Raw::connect(&monitor);
        let (head, body) = boot_source(limit);
        raw.send(format!("{head}\r\n{body}"));
        assert_eq!(raw.answer().status, 204, "{limit}");
        let (head, body) = boot_source(limit + 1);
        raw.try_send(format!("{head}\r\n{body}").as_bytes());
        let answer = raw.answer();
        assert_eq!(answer.status, 400);
        assert_eq!(
            answer.fault(),
            format!(
                "Request payload with size {} is larger than the limit of {limit} allowed by server.",
                limit + 1
            )
        );
        assert!(raw.has_ended());
        assert_eq!(monitor.state(), "Not started");
    }
}

#[test]
fn several_connections_take_turns() {
    let monitor = Monitor::start();
    let mut all: Vec<_> = (0..20).map(|_| Raw::connect(&monitor)).collect();
    // Half of a request on each, then the other halves in the opposite order.
    let (first, second) = GET.split_at(10);
    for raw in &mut all {
        raw.send(first);
    }
    for raw in all.iter_mut().rev() {
        raw.send(second);
        assert_eq!(raw.answer().status, 200);
    }
    // One that is idle holds nobody up, and one that goes away is not missed.
    drop(all.split_off(10));
    for raw in &mut all {
        raw.send(GET);
        assert_eq!(raw.answer().status, 200);
    }
    monitor.boot("hello", "");
    monitor.vm.expect("hello from a tiny guest");
}

#[test]
fn curl_is_a_client() {
    let monitor = Monitor::start();
    let curl = |arguments: &[&str]| {
        let mut command = std::process::Command::new("curl");
        command.args(["--silent", "--show-error", "--max-time", "20", "--unix-socket"]);
        let output = command.arg(monitor.socket()).args(arguments).output();
        let output = output.expect("the package curl is needed");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let kernel = vm::tiny("hello").display().to_string();
    // With a body of this size curl waits for `100 Continue`.
    let body = format!(r#"{}{{"kernel_image_path":"{kernel}"}}"#, " ".repeat(2000));
    let status = ["--write-out", "%{http_code}"];
    let put = |path: &str, body: &str| curl(&[&status[..], &["-X", "PUT", path, "-d", body]].concat());
    assert_eq!(put("http://localhost/boot-source", &body), "204");
    assert!(curl(&["http://localhost/"]).contains("\"Not started\""));
    assert_eq!(
        put("http://localhost/actions", r#"{"action_type":"InstanceStart"}"#),
        "204"
    );
    monitor.vm.expect("hello from a tiny guest");
}
