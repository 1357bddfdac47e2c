//! The end of what a guest said on its console: kept for the message of an error, never more than fits in a page.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// Bytes kept.
const KEPT: usize = 8 << 10;

/// The last bytes of a stream that a thread reads to its end.
#[derive(Clone, Default)]
pub(crate) struct Tail(Arc<Mutex<VecDeque<u8>>>);

impl Tail {
    /// Reads `stream` on a thread of its own.
    pub fn of(mut stream: impl Read + Send + 'static) -> Self {
        let tail = Self::default();
        let kept = tail.clone();
        let reading = move || {
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = stream.read(&mut buffer) {
                let mut kept = kept.0.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend(buffer.iter().take(len));
                let excess = kept.len().saturating_sub(KEPT);
                kept.drain(..excess);
            }
        };
        // Where no thread can be started the words are lost, and nothing else.
        let _ = thread::Builder::new().name("tail".into()).spawn(reading);
        tail
    }

    /// The last line that says something.
    pub fn last_line(&self) -> Option<String> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: Vec<u8> = kept.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
        // A guest's console may hold anything; a terminal shall not act on it.
        Some(line.chars().filter(|shown| !shown.is_control()).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_last_line_survives_a_flood() {
        let mut flood = vec![b'x'; 1 << 20];
        flood.extend(b"\nKernel panic\x1b[31m: no init\r\n\n");
        let tail = Tail::of(std::io::Cursor::new(flood));
        for _ in 0..500 {
            if tail.last_line().as_deref() == Some("Kernel panic[31m: no init") {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("{:?}", tail.last_line());
    }
}
