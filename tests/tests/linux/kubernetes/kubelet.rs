//! A kubelet's side of the container runtime interface.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

/// `cri.py`, to be asked.
pub struct Kubelet {
    process: Child,
    line: RefCell<(ChildStdin, BufReader<ChildStdout>)>,
}

impl Kubelet {
    pub fn new(socket: &Path) -> Self {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/linux/kubernetes/cri.py");
        // Debian's own, which has its packages.
        let mut process = Command::new("/usr/bin/python3")
            .arg(program)
            .arg(socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (ask, hear) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        Self {
            process,
            line: RefCell::new((ask, BufReader::new(hear))),
        }
    }

    /// What the engine answers to a call, or why it refuses: the code's name and the message.
    pub fn call(&self, method: &str, request: &Value) -> Result<Value, (String, String)> {
        outcome(&self.ask(method, request))
    }

    /// What it answers to many that are made at once, and that have to succeed.
    pub fn all_done(&self, method: &str, requests: &[Value]) -> Vec<Value> {
        let answers = self.ask(method, &json!(requests));
        let answers = answers.as_array().unwrap().iter();
        answers
            .map(|answer| {
                outcome(answer).unwrap_or_else(|(code, message)| panic!("{method}: {code}: {message}"))
            })
            .collect()
    }

    fn ask(&self, method: &str, request: &Value) -> Value {
        let (ask, hear) = &mut *self.line.borrow_mut();
        writeln!(ask, "{}", json!([method, request])).unwrap();
        let mut line = String::new();
        hear.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// What it answers to one that has to succeed.
    pub fn done(&self, method: &str, request: Value) -> Value {
        let answer = self.call(method, &request);
        answer.unwrap_or_else(|(code, message)| panic!("{method}: {code}: {message}"))
    }
}

fn outcome(answer: &Value) -> Result<Value, (String, String)> {
    let text = |index: usize| answer["failed"][index].as_str().unwrap().to_owned();
    match answer.get("done") {
        Some(done) => Ok(done.clone()),
        None => Err((text(0), text(1))),
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
