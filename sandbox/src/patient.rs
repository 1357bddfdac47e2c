//! Reading and writing whatever it takes: somebody else may have made a descriptor that is shared with this process one
//! that does not wait.

use std::io;
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, poll};

/// Whether it is a matter of time.
fn can_wait(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

fn await_events(file: &impl AsFd, events: PollFlags) {
    let _ = poll(&mut [PollFd::new(file, events)], None);
}

/// Reads from `source` once there is something; 0 bytes are its end.
///
/// # Errors
/// Those of `read(2)` that waiting does not mend.
pub fn read_some(mut source: impl io::Read + AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(buffer) {
            Err(error) if can_wait(&error) => await_events(&source, PollFlags::IN),
            result => return result,
        }
    }
}

/// Writes all of `bytes`.
///
/// # Errors
/// Those of `write(2)` that waiting does not mend.
pub fn write_all(mut sink: impl io::Write + AsFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match sink.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if can_wait(&error) => await_events(&sink, PollFlags::OUT),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects)]

    use std::os::unix::net::UnixStream;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn descriptors_that_do_not_wait_lose_nothing() {
        let (one, other) = UnixStream::pair().unwrap();
        one.set_nonblocking(true).unwrap();
        other.set_nonblocking(true).unwrap();
        // More than a socket takes at once, and later than the reader begins.
        let sent = vec![7; 4 << 20];
        let len = sent.len();
        let writer = thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            write_all(&one, &sent).unwrap();
        });
        let (mut got, mut buffer) = (0, vec![0; 64 << 10]);
        while let Ok(read @ 1..) = read_some(&other, &mut buffer) {
            assert!(buffer[..read].iter().all(|byte| *byte == 7));
            got += read;
        }
        writer.join().unwrap();
        assert_eq!(got, len);
    }
}
