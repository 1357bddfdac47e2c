//! The streams of an exec, of an attach or of a forwarded port, as kubectl has them.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

/// `stream.py`, which is connected. Each character of a text is a byte.
pub struct Stream {
    process: Child,
    ask: Option<ChildStdin>,
    hear: BufReader<ChildStdout>,
    /// What came so far.
    heard: BTreeMap<String, String>,
}

/// All that came.
#[derive(Debug)]
pub struct Heard(BTreeMap<String, String>);

impl Stream {
    /// Speaks with the server at `url` in one of the ways that `stream.py` has, over these streams.
    pub fn open(how: &str, url: &str, streams: &[&str]) -> Self {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/linux/kubernetes/stream.py");
        let mut process = Command::new("/usr/bin/python3")
            .args([program, how, url])
            .args(streams)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            ask: process.stdin.take(),
            hear: BufReader::new(process.stdout.take().unwrap()),
            process,
            heard: BTreeMap::new(),
        }
    }

    pub fn send(&mut self, stream: &str, text: &str) {
        self.tell(&json!([stream, text]));
    }

    /// The end of a stream.
    pub fn end(&mut self, stream: &str) {
        self.tell(&json!([stream]));
    }

    fn tell(&mut self, what: &Value) {
        // Of one that has ended, what it heard says why.
        let _ = writeln!(self.ask.as_ref().unwrap(), "{what}");
    }

    /// The size of the terminal at this end.
    pub fn resize(&mut self, columns: u16, rows: u16) {
        self.send("resize", &json!({ "Width": columns, "Height": rows }).to_string());
    }

    /// Waits until `text` has come.
    pub fn until(&mut self, stream: &str, text: &str) {
        while !self.heard.get(stream).is_some_and(|heard| heard.contains(text)) {
            assert!(self.hear(), "{text:?} has not come: {:?}", self.heard);
        }
    }

    /// Waits for the end.
    pub fn finish(mut self) -> Heard {
        while self.hear() {}
        Heard(std::mem::take(&mut self.heard))
    }

    /// Goes away in the middle, as somebody whose line is cut; what came so far.
    pub fn leave(mut self) -> Heard {
        self.ask = None;
        self.finish()
    }

    /// Takes what comes next; whether something does.
    fn hear(&mut self) -> bool {
        let mut line = String::new();
        if self.hear.read_line(&mut line).unwrap() == 0 {
            return false;
        }
        let (stream, text): (String, String) = serde_json::from_str(&line).unwrap();
        self.heard.entry(stream).or_default().push_str(&text);
        true
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Heard {
    /// What came of a stream.
    pub fn of(&self, stream: &str) -> &str {
        self.0.get(stream).map_or("", String::as_str)
    }

    /// The exit code that the server tells of the process.
    pub fn code(&self) -> i32 {
        let status: Value = serde_json::from_str(self.of("error")).unwrap_or_else(|_| panic!("{:?}", self.0));
        if status["status"] == "Success" {
            return 0;
        }
        assert_eq!(status["reason"], "NonZeroExitCode", "{status}");
        let cause = &status["details"]["causes"][0];
        assert_eq!(cause["reason"], "ExitCode", "{status}");
        cause["message"].as_str().unwrap().parse().unwrap()
    }
}
