//! The socket device with Linux's own driver: connections both ways, whole streams, refusals.
//!
//! The guest speaks by Perl, which every Debian has: address family 40, and `struct sockaddr_vm` packed by hand.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use koya_tests::vm::Scratch;
use serde_json::json;

use crate::guest::Guest;
use crate::running::Running;
use crate::support::{MIB, sha256};

const CID: u32 = 52;

/// Echoes each connection to port 5000 until its other end writes no more.
const ECHO: &str = r#"
perl -e '
  socket($l, 40, 1, 0) and bind($l, pack("SSLLx4", 40, 0, 5000, 0xffffffff)) and listen($l, 64) or die "listen: $!";
  print "koya-test: step=listening\n"; $| = 1; print "";
  while (accept($c, $l)) {
    if (fork) { close $c; next }
    while (sysread($c, $data, 65536)) {
      for ($at = 0; $at < length $data; $at += $done) { $done = syswrite($c, $data, 65536, $at) or exit 1 }
    }
    exit;
  }
' &
"#;

/// A guest with a socket device, and where its socket is. The folder lives as long as the scratch.
fn guest_at(scratch: &Scratch) -> (Guest, PathBuf) {
    let path = scratch.path("v.sock");
    let vsock = json!({ "guest_cid": CID, "uds_path": path });
    (Guest::debian().section("vsock", vsock), path)
}

/// Connects to a port of the guest, as a client of Firecracker's does.
fn connect(path: &PathBuf, port: u32) -> std::io::Result<UnixStream> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.set_write_timeout(Some(Duration::from_secs(60)))?;
    writeln!(stream, "CONNECT {port}")?;
    let mut line = Vec::new();
    // By the byte: what follows the line is the guest's.
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    assert!(line.starts_with(b"OK "), "{:?}", String::from_utf8_lossy(&line));
    Ok(stream)
}

/// Sends `data`, closes that direction, and gives all that comes back.
fn echoed(path: &PathBuf, data: &[u8]) -> Vec<u8> {
    let mut stream = connect(path, 5000).unwrap();
    let mut sender = stream.try_clone().unwrap();
    let mut back = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            sender.write_all(data).unwrap();
            sender.shutdown(Shutdown::Write).unwrap();
        });
        let read = stream.read_to_end(&mut back);
        assert!(
            read.is_ok(),
            "{read:?} after {} of {} bytes",
            back.len(),
            data.len()
        );
    });
    back
}

fn pattern(len: u64) -> Vec<u8> {
    (0..len)
        .map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[2])
        .collect()
}

fn listening(guest: Guest) -> Running {
    let script = format!("{ECHO}read -r _\n");
    let running = guest.script(&script).start();
    running.await_step("listening");
    running
}

#[test]
fn a_host_reaches_the_guest_and_streams_arrive_whole() {
    let scratch = Scratch::new();
    let (guest, path) = guest_at(&scratch);
    let mut running = listening(guest);
    let data = pattern(4 * MIB);
    assert_eq!(sha256(&echoed(&path, &data)), sha256(&data));

    // Many at once, each with a stream of its own.
    thread::scope(|scope| {
        for index in 0..32_u64 {
            let path = &path;
            scope.spawn(move || {
                let data = pattern(10_000 + index);
                assert_eq!(echoed(path, &data), data);
            });
        }
    });

    // Nobody listens there: the connection ends without an answer.
    let refused = connect(&path, 5999).unwrap_err();
    assert!(
        matches!(
            refused.kind(),
            std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset
        ),
        "{refused}"
    );
    running.go_on();
    running.finish();
    assert!(!path.exists(), "the socket file is left behind");
}

#[test]
fn a_guest_reaches_the_host_and_is_refused_where_nobody_listens() {
    let scratch = Scratch::new();
    let (guest, path) = guest_at(&scratch);
    let listener = UnixListener::bind(format!("{}_6000", path.display())).unwrap();
    let script = r#"
perl -e '
  sub dial { socket(my $s, 40, 1, 0); connect($s, pack("SSLLx4", 40, 0, $_[0], 2)) ? $s : undef }
  print "koya-test: refused=", (dial(6001) ? "no" : $!{ECONNRESET} || $!{ECONNREFUSED} ? "yes" : "$!"), "\n";
  $s = dial(6000) or die "connect: $!";
  syswrite($s, "hello from $$\n"); shutdown($s, 1);
  $n = 0; $n += $got while $got = sysread($s, $data, 65536);
  print "koya-test: received=$n\n";
'
say cid $(perl -e 'open(F, "/dev/vsock"); ioctl(F, 0x7b9, $c = pack("L", 0)); print unpack("L", $c)')
"#;
    let running = guest.script(script).start();
    let (mut stream, _) = listener.accept().unwrap();
    let mut greeting = String::new();
    BufReader::new(&stream).read_line(&mut greeting).unwrap();
    assert!(greeting.starts_with("hello from "), "{greeting:?}");
    // The guest has closed its direction; the other one still carries.
    stream.write_all(&pattern(MIB)).unwrap();
    drop(stream);

    let report = running.finish();
    assert_eq!(report.value("refused"), "yes");
    assert_eq!(report.number("received"), MIB);
    assert_eq!(report.value("cid"), CID.to_string());
}
