//! HTTP by hand: bytes out, bytes in.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use koya_tests::vm::PATIENCE;
use serde_json::Value;

use super::Monitor;

/// A connection to the API that speaks no HTTP by itself.
pub struct Raw {
    stream: UnixStream,
    input: Vec<u8>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// The status line and the headers, in lower case.
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn fault(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap();
        body["fault_message"].as_str().unwrap().to_owned()
    }
}

impl Raw {
    pub fn connect(monitor: &Monitor) -> Self {
        let stream = UnixStream::connect(monitor.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream,
            input: Vec::new(),
        }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// Sends to somebody who may have stopped reading.
    pub fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// From now on sending to somebody who does not read fails after `patience`.
    pub fn give_up_writing_after(&self, patience: Duration) {
        self.stream.set_write_timeout(Some(patience)).unwrap();
    }

    /// Sends no more, but goes on reading.
    pub fn half_close(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// The next response, interim ones included.
    pub fn answer(&mut self) -> Answer {
        let end = loop {
            if let Some(end) = self.input.windows(4).position(|part| part == b"\r\n\r\n") {
                break end + 4;
            }
            assert!(self.receive(), "the connection ended: {:?}", self.text());
        };
        let head: Vec<u8> = self.input.drain(..end).collect();
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.map_or(0, |length| length.parse().unwrap());
        while self.input.len() < length {
            assert!(
                self.receive(),
                "the connection ended in a body: {:?}",
                self.text()
            );
        }
        let body = self.input.drain(..length).collect();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head, body }
    }

    /// Whether the server has ended the connection, with nothing more to say.
    pub fn has_ended(&mut self) -> bool {
        self.input.is_empty() && !self.receive()
    }

    /// Whether nothing comes for a while.
    pub fn is_silent(&mut self) -> bool {
        self.stream
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        let mut byte = [0];
        let silent = match self.stream.read(&mut byte) {
            Ok(count) => {
                self.input.extend(&byte[..count]);
                false
            }
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        };
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        silent
    }

    /// Waits for more; false at the end.
    fn receive(&mut self) -> bool {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(count) => {
                self.input.extend(&buffer[..count]);
                count > 0
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!("{error}; so far: {:?}", self.text()),
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.input).into_owned()
    }
}
