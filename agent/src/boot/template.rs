//! A guest that others are forked from: it is frozen once its agent is ready, and goes on later, any number of times, with
//! devices that were not there before.
//!
//! ```text
//!  template: boot, threads, CALL_PORT ──► host: frozen
//!  each fork:                             goes on; all connections are dead ─► new devices ─► CALL_PORT ──► host
//! ```

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use crate::windows;

/// Waits on the connection to the host until it has ended, which it does not before this guest is a fork, and has the
/// kernel look at the devices that the fork has more than the template.
pub fn be_forked(connection: OwnedFd) {
    await_end(connection);
    windows::look_again();
}

/// A host that dies under a connection resets it, and so does a device that was put into another VMM.
fn await_end(connection: OwnedFd) {
    // Reading is the same for vsock.
    let mut connection = UnixStream::from(connection);
    let mut byte = [0];
    loop {
        match connection.read(&mut byte) {
            Ok(1..) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::thread;

    use super::*;

    #[test]
    fn the_end_of_the_connection_is_waited_for_whatever_comes_before() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let host = thread::spawn(move || {
            (&theirs).write_all(b"nothing that counts").unwrap();
            drop(theirs);
        });
        await_end(ours.into());
        host.join().unwrap();
    }
}
