//! A guest that others are forked from: it is frozen once its agent is ready, and goes on later, any number of times, with
//! devices that were not there before.
//!
//! ```text
//!  template: boot, threads, CALL_PORT ──► host: frozen
//!  each fork:                             goes on; all connections are dead ─► new devices ─► CALL_PORT ──► host
//! ```

use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// What ACPI names `LNRO0005`: windows for virtio-mmio devices (virtio 1.2 §4.2), empty ones among them.
const DEVICES: &str = "/sys/bus/platform/devices";
/// How the names of those begin.
const WINDOW: &str = "LNRO0005:";
/// Takes such a name, and returns when the device works.
const BIND: &str = "/sys/bus/platform/drivers/virtio-mmio/bind";

/// Waits on the connection to the host until it has ended, which it does not before this guest is a fork, and has the
/// kernel look at the devices that the fork has more than the template.
pub fn be_forked(connection: OwnedFd) {
    await_end(connection);
    probe(Path::new(DEVICES), |window| fs::write(BIND, window));
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

/// Has `bind` take each window that has no driver, in the order of their numbers.
fn probe(devices: &Path, bind: impl Fn(&str) -> io::Result<()>) {
    let entries = fs::read_dir(devices).into_iter().flatten().flatten();
    let mut windows: Vec<_> = entries
        .filter(|entry| !entry.path().join("driver").exists())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(WINDOW))
        .collect();
    windows.sort();
    for window in windows {
        match bind(&window) {
            // Nothing is there.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
            // What needs the device says that it is missing.
            Err(error) => println!("koya-agent: the device in {window} cannot be used: {error}"),
            Ok(()) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io::Write;
    use std::thread;

    use super::*;

    #[test]
    fn windows_without_driver_are_probed_in_order_whatever_one_says() {
        let devices = std::env::temp_dir().join(format!("koya-agent-windows-{}", std::process::id()));
        for name in [
            "LNRO0005:0a",
            "LNRO0005:02",
            "LNRO0005:00",
            "PNP0501:00",
            "LNRO0005:01",
        ] {
            fs::create_dir_all(devices.join(name)).unwrap();
        }
        fs::create_dir(devices.join("LNRO0005:00/driver")).unwrap();
        let probed = RefCell::new(Vec::new());
        probe(&devices, |window| {
            probed.borrow_mut().push(window.to_owned());
            match window {
                "LNRO0005:01" => Err(io::Error::from_raw_os_error(libc::ENODEV)),
                "LNRO0005:02" => Err(io::Error::from_raw_os_error(libc::EIO)),
                _ => Ok(()),
            }
        });
        assert_eq!(*probed.borrow(), ["LNRO0005:01", "LNRO0005:02", "LNRO0005:0a"]);
        fs::remove_dir_all(devices).unwrap();
        // Without sysfs there is nothing to do.
        probe(Path::new("/no/such/folder"), |window| panic!("{window}"));
    }

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
