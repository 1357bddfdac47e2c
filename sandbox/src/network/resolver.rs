//! A name server on the loopback device of a namespace that was taken over: the guest cannot reach it, so what it asks is
//! asked here in its place.
//!
//! ```text
//!  agent ── stream ──► a thread for each question ──► 127.0.0.11:53 of the namespace (docker's) ──► an answer, or none
//! ```
//!
//! docker's server finds names of containers by itself and asks others about all other names, from within the namespace;
//! that their answers reach it is [`keep_answers`](super::takeover::keep_answers)'s.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use koya_proto::names::{Name, Transport};

/// Bytes of a `resolv.conf` that are read: a real one has some hundred.
const MAX_FILE: u64 = 64 << 10;
/// Questions at once. More are dropped, and asked again.
const MAX_QUESTIONS: usize = 64;
/// How long an answer may take: a server may have to ask several others, each for some seconds.
const PATIENCE: Duration = Duration::from_secs(15);
/// Enough to wait in.
const STACK: usize = 64 << 10;
const PORT: u16 = 53;

/// The first name server that `resolv.conf` names, if it is on the loopback device, and not one that everybody has for
/// himself.
#[must_use]
pub fn on_loopback(resolv_conf: &Path) -> Option<Ipv4Addr> {
    let mut text = String::new();
    let file = File::open(resolv_conf).ok()?;
    file.take(MAX_FILE).read_to_string(&mut text).ok()?;
    let mut servers = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next())?
    });
    let first: Ipv4Addr = servers.next()?.parse().ok()?;
    (first.is_loopback() && first != Ipv4Addr::LOCALHOST).then_some(first)
}

/// Answers what comes over the stream with what `server` says, until the stream ends. To be called in the namespace.
pub fn serve(stream: UnixStream, server: Ipv4Addr) {
    let Ok(answers) = stream.try_clone() else { return };
    let answers = Arc::new(Mutex::new(answers));
    let asked = Arc::new(AtomicUsize::new(0));
    while let Ok(Some(question)) = Name::read(&stream) {
        let guard = Counted::new(&asked);
        if guard.count > MAX_QUESTIONS {
            continue;
        }
        let answers = Arc::clone(&answers);
        let ask = move || {
            let _guard = guard;
            // Whoever asked asks again, or somebody else.
            let Ok(message) = ask(server, &question) else {
                return;
            };
            let answer = Name { message, ..question };
            let mut stream = answers.lock().unwrap_or_else(PoisonError::into_inner);
            if let Ok(bytes) = answer.encode()
                && stream.write_all(&bytes).is_err()
            {
                let _ = stream.shutdown(std::net::Shutdown::Both);
            }
        };
        let builder = thread::Builder::new().name("names".to_owned()).stack_size(STACK);
        let _ = builder.spawn(ask);
    }
}

fn ask(server: Ipv4Addr, question: &Name) -> io::Result<Vec<u8>> {
    match question.transport {
        Transport::Udp => ask_by_datagram(server, &question.message),
        Transport::Tcp => ask_by_connection(server, &question.message),
    }
}

fn ask_by_datagram(server: Ipv4Addr, question: &[u8]) -> io::Result<Vec<u8>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((server, PORT))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(question)?;
    let mut answer = vec![0; usize::from(u16::MAX)];
    let length = socket.recv(&mut answer)?;
    answer.truncate(length);
    Ok(answer)
}

/// Behind their lengths, as in RFC 1035 §4.2.2.
fn ask_by_connection(server: Ipv4Addr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&(server, PORT).into(), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let length = u16::try_from(question.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&length.to_be_bytes(), question].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// One of the questions, as long as it lives.
struct Counted {
    counter: Arc<AtomicUsize>,
    count: usize,
}

impl Counted {
    fn new(counter: &Arc<AtomicUsize>) -> Self {
        let count = counter.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        Self {
            counter: Arc::clone(counter),
            count,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.counter.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_name_server_on_the_loopback_device_is_found() {
        let path = std::env::temp_dir().join(format!("koya-resolv-{}", std::process::id()));
        let found = |text: &str| {
            std::fs::write(&path, text).unwrap();
            on_loopback(&path)
        };
        let docker = "search lan\n# nameserver 10.0.0.9\nnameserver 127.0.0.11\noptions ndots:0\n";
        assert_eq!(found(docker), Some(Ipv4Addr::new(127, 0, 0, 11)));
        assert_eq!(found("nameserver 10.0.0.1\nnameserver 127.0.0.11\n"), None);
        assert_eq!(found("nameserver 127.0.0.1\n"), None, "everybody's own");
        assert_eq!(found("nameserver ::1\n"), None);
        assert_eq!(found("nameserver\n"), None);
        assert_eq!(found(""), None);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(on_loopback(&path), None);
    }
}
