//! The program aardvark-dns, which answers for the names of containers: when it can be told of them, and that it answers.
//!
//! netavark starts it, tells it of every change by SIGHUP, and waits for nothing. So a container may run before its name is
//! known; a server that has just been started dies of the signal, as long as it has no handler for it; and one that ends,
//! because its last name has gone, is taken for one that will answer for the next. Whoever runs netavark waits here instead.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::definition::Network;
use super::{Link, NetworkError};

/// How long it may take to be ready, and to answer. Some milliseconds are usual; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks at it, and at most between two questions: each pause is twice the one before.
const PAUSE: Duration = Duration::from_millis(2);
const LONGEST: Duration = Duration::from_millis(100);
/// How long one answer is waited for, and how often it is told again to read what it is to know.
const ANSWER: Duration = Duration::from_millis(100);
const AGAIN: Duration = Duration::from_secs(1);
/// Where it answers (RFC 1035, section 4.2).
const PORT: u16 = 53;
/// Longest message over UDP (RFC 1035, section 2.3.4), and its header (section 4.1.1).
const MESSAGE: usize = 512;
const HEADER: usize = 12;
/// What names of containers end with, unless it is told otherwise.
const DOMAIN: &str = "dns.podman";
/// The file with its process id, beside one file for each network.
const PID_FILE: &str = "aardvark.pid";
/// As /proc calls it.
const PROGRAM: &str = "aardvark-dns";

/// The server of a folder.
#[derive(Debug)]
pub(super) struct NameServer {
    folder: PathBuf,
}

/// What is asked for to see that it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    server: IpAddr,
    name: String,
    address: IpAddr,
}

/// What a container's own name stands for on all of its networks that have names.
pub(super) fn questions(id: &str, links: &[(Network, Link)]) -> Vec<Question> {
    let named = links.iter().filter(|(network, _)| network.dns);
    named
        .flat_map(|(_, link)| link.gateways.iter().zip(&link.addresses))
        .filter(|(server, address)| server.is_ipv4() == address.is_ipv4())
        .map(|(&server, &address)| Question {
            server,
            // In the domain of its own, of which it asks nobody else.
            name: format!("{id}.{DOMAIN}"),
            address,
        })
        .collect()
}

impl NameServer {
    /// That of netavark's folder `config`.
    pub(super) fn of(config: &Path) -> Self {
        Self {
            folder: config.join("aardvark-dns"),
        }
    }

    /// Waits until it can be told something: until one that starts has its handler, and one without names has ended.
    /// What is still not so after [`PATIENCE`] is left to netavark.
    pub(super) fn settle(&self) {
        let start = Instant::now();
        while let Some(pid) = self.pid() {
            let Some(hears) = hears_hangups(pid) else {
                return;
            };
            if (hears && self.has_names()) || start.elapsed() > PATIENCE {
                return;
            }
            thread::sleep(PAUSE);
        }
    }

    /// Does `change`, after which it may have no name left, and waits until it has ended then.
    pub(super) fn while_names_go<T>(&self, change: impl FnOnce() -> T) -> T {
        // It removes its file before it ends; its sockets stay until then.
        let before = self.pid();
        let outcome = change();
        if let Some(pid) = before.filter(|_| !self.has_names()) {
            let start = Instant::now();
            while hears_hangups(pid).is_some() && start.elapsed() < PATIENCE {
                thread::sleep(PAUSE);
            }
        }
        outcome
    }

    /// Waits until it gives the answers.
    ///
    /// # Errors
    /// [`NetworkError::NoNames`]
    pub(super) fn await_answers(&self, questions: &[Question]) -> Result<(), NetworkError> {
        let start = Instant::now();
        let mut told = start;
        let mut pause = PAUSE;
        for question in questions {
            while !question.is_answered() {
                if start.elapsed() > PATIENCE {
                    return Err(NetworkError::NoNames {
                        server: SocketAddr::new(question.server, PORT),
                        seconds: PATIENCE.as_secs(),
                    });
                }
                if told.elapsed() > AGAIN {
                    self.tell();
                    told = Instant::now();
                }
                thread::sleep(pause);
                pause = pause.saturating_mul(2).min(LONGEST);
            }
        }
        Ok(())
    }

    /// What it could not do before, such as bind an address, it tries again.
    fn tell(&self) {
        if let Some(pid) = self.pid().filter(|&pid| hears_hangups(pid) == Some(true)) {
            let _ = kill_process(pid, Signal::HUP);
        }
    }

    fn pid(&self) -> Option<Pid> {
        let pid = fs::read_to_string(self.folder.join(PID_FILE)).ok()?;
        Pid::from_raw(pid.trim().parse().ok()?)
    }

    fn has_names(&self) -> bool {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries.into_iter().any(|entry| entry.file_name() != PID_FILE)
    }
}

/// Whether it has a handler for SIGHUP; `None` if it is not there.
fn hears_hangups(pid: Pid) -> Option<bool> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
    };
    if field("Name:")? != PROGRAM || field("State:")?.starts_with('Z') {
        return None;
    }
    let caught = u64::from_str_radix(field("SigCgt:")?, 16).ok()?;
    // The lowest bit is signal 1, which it is (proc_pid_status(5)).
    Some(caught & 1 == 1)
}

impl Question {
    /// Asks once. Another answer is none: it may be what was known a moment ago.
    fn is_answered(&self) -> bool {
        self.ask().is_ok_and(|answer| self.is_in(&answer))
    }

    fn ask(&self) -> io::Result<Vec<u8>> {
        let any: IpAddr = match self.server {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        // Connected: nobody else's answer is taken, and a refusal is told at once.
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((self.server, PORT))?;
        socket.set_read_timeout(Some(ANSWER))?;
        socket.send(&self.message())?;
        let mut answer = vec![0; MESSAGE];
        let length = socket.recv(&mut answer)?;
        answer.truncate(length);
        Ok(answer)
    }

    /// A query for the address (RFC 1035, section 4.1; RFC 3596, section 2).
    fn message(&self) -> Vec<u8> {
        // Any id, since each socket is asked one thing; recursion desired; one question.
        let mut message = vec![0x4b, 0x79, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in self.name.split('.') {
            // Ids are shorter than the 63 bytes of a label.
            message.push(u8::try_from(label.len()).unwrap_or(0));
            message.extend_from_slice(label.as_bytes());
        }
        let kind = if self.server.is_ipv4() { 1 } else { 28 };
        message.extend_from_slice(&[0, 0, kind, 0, 1]);
        message
    }

    /// Whether the address is in an answer.
    fn is_in(&self, answer: &[u8]) -> bool {
        let Some((_, body)) = answer.split_at_checked(HEADER) else {
            return false;
        };
        let holds = |address: &[u8]| body.windows(address.len()).any(|bytes| bytes == address);
        match self.address {
            IpAddr::V4(address) => holds(&address.octets()),
            IpAddr::V6(address) => holds(&address.octets()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects)]

    use std::process::Command;

    use super::*;

    fn question() -> Question {
        Question {
            server: "10.91.0.1".parse().unwrap(),
            name: "c0ffee".to_owned(),
            address: "10.91.0.2".parse().unwrap(),
        }
    }

    #[test]
    fn a_query_is_as_rfc_1035_has_it() {
        let message = question().message();
        assert_eq!(message[2..12], [1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(message[12..], *b"\x06c0ffee\0\0\x01\0\x01");
    }

    #[test]
    fn only_an_answer_with_the_address_is_one() {
        let mut answer = question().message();
        assert!(!question().is_in(&answer));
        answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 91, 0, 3]);
        assert!(!question().is_in(&answer));
        answer[12 + 8 + 4 + 15] = 2;
        assert!(question().is_in(&answer));
        assert!(!question().is_in(&answer[..8]));
    }

    /// A program of the server's name, in whose folder a test says what it has; it has a handler once a file is there, and
    /// ends a while after it was told to.
    struct Played {
        folder: PathBuf,
        child: std::process::Child,
    }

    impl Played {
        fn new(test: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("koya-names-{test}-{}", std::process::id()));
            let own = folder.join("aardvark-dns");
            fs::create_dir_all(&own).unwrap();
            fs::write(own.join("koya0"), "10.91.0.1\n").unwrap();
            // The kernel calls a program as it was called.
            let shell = folder.join("bin").join(PROGRAM);
            fs::create_dir_all(folder.join("bin")).unwrap();
            std::os::unix::fs::symlink("/bin/bash", &shell).unwrap();
            let script = "until [ -e heard ]; do sleep 0.02; done; trap 'sleep 0.3; exit' HUP; while :; do sleep 0.02; done";
            let child = Command::new(&shell)
                .args(["-c", script])
                .current_dir(&folder)
                .spawn()
                .unwrap();
            fs::write(own.join(PID_FILE), child.id().to_string()).unwrap();
            Self { folder, child }
        }

        fn server(&self) -> NameServer {
            NameServer::of(&self.folder)
        }

        /// Has it make its handler, now or later.
        fn hear(&self) {
            fs::write(self.folder.join("heard"), "").unwrap();
        }
    }

    impl Drop for Played {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
            let _ = fs::remove_dir_all(&self.folder);
        }
    }

    #[test]
    fn it_is_told_nothing_before_it_hears() {
        let mut played = Played::new("hears");
        let pid = Pid::from_child(&played.child);
        assert_eq!(hears_hangups(pid), Some(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(ANSWER);
                played.hear();
            });
            played.server().settle();
        });
        assert_eq!(hears_hangups(pid), Some(true));
        played.server().tell();
        assert!(played.child.wait().unwrap().success());
    }

    #[test]
    fn one_without_names_has_ended_before_it_is_asked_again() {
        let played = Played::new("ends");
        let (pid, server) = (Pid::from_child(&played.child), played.server());
        played.hear();
        server.settle();
        assert!(hears_hangups(pid).is_some(), "it has a name, and ended");
        server.while_names_go(|| {
            fs::remove_file(played.folder.join("aardvark-dns/koya0")).unwrap();
            server.tell();
        });
        // Nobody has waited for it yet.
        assert_eq!(hears_hangups(pid), None);
    }

    #[test]
    fn who_is_no_name_server_is_not_waited_for() {
        let folder = std::env::temp_dir().join(format!("koya-names-{}", std::process::id()));
        let server = NameServer::of(&folder);
        assert_eq!(server.pid(), None);
        fs::create_dir_all(folder.join("aardvark-dns")).unwrap();
        fs::write(
            folder.join("aardvark-dns").join(PID_FILE),
            std::process::id().to_string(),
        )
        .unwrap();
        assert!(!server.has_names());
        let start = Instant::now();
        server.settle();
        server.while_names_go(|| ());
        assert!(start.elapsed() < PATIENCE);
        fs::remove_dir_all(folder).unwrap();
    }
}
