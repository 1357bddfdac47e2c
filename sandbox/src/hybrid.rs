//! Reaching a port of the guest through the unix socket of its vsock device, as Firecracker's clients do.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::sockets;

/// The longest answer: `OK`, a space, ten digits and the end of the line.
const MAX_ANSWER: usize = 32;

/// Connects to `port` of the guest behind `socket`. A guest that does not listen there ends the connection.
///
/// # Errors
/// [`io::ErrorKind::ConnectionRefused`] if the guest refused; [`io::ErrorKind::InvalidData`] if the other end is no vsock
/// device; [`io::ErrorKind::WouldBlock`] if there was no answer within `patience`; and whatever connecting says.
pub fn connect(socket: &Path, port: u32, patience: Duration) -> io::Result<UnixStream> {
    let mut stream = sockets::connect(socket)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes())?;
    let mut answer = Vec::with_capacity(MAX_ANSWER);
    // By the byte: what follows the line belongs to whoever gets the stream.
    while answer.last() != Some(&b'\n') {
        let mut byte = [0];
        if answer.len() >= MAX_ANSWER {
            return Err(io::ErrorKind::InvalidData.into());
        }
        match stream.read_exact(&mut byte) {
            Ok(()) => answer.extend(byte),
            Err(error) => {
                return Err(match error.kind() {
                    io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                        io::ErrorKind::ConnectionRefused.into()
                    }
                    _ => error,
                });
            }
        }
    }
    if !answer.starts_with(b"OK ") {
        return Err(io::ErrorKind::InvalidData.into());
    }
    stream.set_read_timeout(None)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;
    use std::thread;

    use super::*;

    /// A device that gives one answer, and what it was asked.
    fn device(name: &str, answer: &'static [u8]) -> (PathBuf, thread::JoinHandle<String>) {
        let path = std::env::temp_dir().join(format!("koya-hybrid-{}-{name}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let asked = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 12];
            stream.read_exact(&mut asked).unwrap();
            stream.write_all(answer).unwrap();
            String::from_utf8_lossy(&asked).into_owned()
        });
        (path, asked)
    }

    #[test]
    fn what_follows_the_answer_is_the_streams() {
        let (path, asked) = device("ok", b"OK 1073741824\nhello");
        let mut stream = connect(&path, 900, Duration::from_secs(5)).unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "hello");
        assert_eq!(asked.join().unwrap(), "CONNECT 900\n");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn refusals_and_nonsense_are_told_apart() {
        for (name, answer, kind) in [
            ("refused", &b""[..], io::ErrorKind::ConnectionRefused),
            ("nonsense", b"HTTP/1.1 400\n", io::ErrorKind::InvalidData),
            ("endless", &[b'x'; 64], io::ErrorKind::InvalidData),
        ] {
            let (path, asked) = device(name, answer);
            let error = connect(&path, 900, Duration::from_secs(5)).unwrap_err();
            assert_eq!(error.kind(), kind, "{name}");
            asked.join().unwrap();
            std::fs::remove_file(path).unwrap();
        }
    }
}
