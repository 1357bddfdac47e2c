//! A kubelet's side of the container runtime interface: `cri.py` of the tests, asked line by line.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::bench::BenchError;
use crate::bench::tree;

const PROGRAM: &str = include_str!("../../../tests/linux/kubernetes/cri.py");

/// See the module.
pub(super) struct Cri {
    process: Child,
    ask: ChildStdin,
    hear: BufReader<ChildStdout>,
}

/// What becomes of calls that are made at once.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// Of those that were done, in order.
    pub done: Vec<Value>,
    /// Of those that were not: why.
    pub failed: Vec<String>,
}

impl Cri {
    /// Connects to an engine; a call may take as long as `patience`.
    pub fn new(socket: &Path, folder: &Path, patience: Duration) -> Result<Self, BenchError> {
        let program = folder.join("cri.py");
        tree::write(&program, PROGRAM, 0o644)?;
        // Debian's own, which has its packages.
        let mut process = Command::new("/usr/bin/python3")
            .args([&program, socket])
            .arg(patience.as_secs().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(BenchError::path("run", "/usr/bin/python3"))?;
        match (process.stdin.take(), process.stdout.take()) {
            (Some(ask), Some(hear)) => Ok(Self {
                process,
                ask,
                hear: BufReader::new(hear),
            }),
            _ => Err(BenchError::Usage("cri.py has no streams".into())),
        }
    }

    /// Makes calls of one method at once, to their ends.
    pub fn all(&mut self, method: &str, requests: &[Value]) -> Result<Answers, BenchError> {
        let failed = || BenchError::host("talk to cri.py");
        writeln!(self.ask, "{}", json!([method, requests])).map_err(failed())?;
        let mut line = String::new();
        self.hear.read_line(&mut line).map_err(failed())?;
        answers(&line)
    }

    /// The same for calls that all have to succeed.
    pub fn all_done(&mut self, method: &str, requests: &[Value]) -> Result<Vec<Value>, BenchError> {
        let answers = self.all(method, requests)?;
        match answers.failed.first() {
            None => Ok(answers.done),
            Some(reason) => {
                let (failed, all) = (answers.failed.len(), requests.len());
                Err(BenchError::Output {
                    expected: "containerd to do all that was asked",
                    found: format!("{failed} of {all} {method} failed: {reason}"),
                })
            }
        }
    }
}

impl Drop for Cri {
    fn drop(&mut self) {
        // It does nothing that is not waited for.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// From a line of cri.py.
fn answers(line: &str) -> Result<Answers, BenchError> {
    let garbled = || BenchError::Output {
        expected: "an answer of cri.py",
        found: line.chars().take(200).collect(),
    };
    let list: Vec<Value> = serde_json::from_str(line).map_err(|_| garbled())?;
    let mut answers = Answers::default();
    for answer in list {
        match (
            answer.get("done"),
            answer.pointer("/failed/0"),
            answer.pointer("/failed/1"),
        ) {
            (Some(done), ..) => answers.done.push(done.clone()),
            (_, Some(Value::String(code)), Some(Value::String(message))) => {
                answers.failed.push(format!("{code}: {message}"));
            }
            _ => return Err(garbled()),
        }
    }
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_calls_are_done_and_some_are_not() {
        let line = r#"[{"done": {"pod_sandbox_id": "a"}}, {"failed": ["UNKNOWN", "no room"]}, {"done": {}}]"#;
        let answers = answers(line).unwrap();
        assert_eq!(answers.done, [json!({ "pod_sandbox_id": "a" }), json!({})]);
        assert_eq!(answers.failed, ["UNKNOWN: no room"]);
    }

    #[test]
    fn what_is_no_answer_is_told() {
        for line in ["", "{}", r#"[{"failed": []}]"#, "[3]"] {
            assert!(matches!(answers(line), Err(BenchError::Output { .. })), "{line}");
        }
    }
}
