//! Windows for virtio-mmio devices that were empty when the kernel looked: nobody tells a guest of what has come since.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// What ACPI names `LNRO0005`: windows for virtio-mmio devices (virtio 1.2 §4.2), empty ones among them.
const DEVICES: &str = "/sys/bus/platform/devices";
/// How the names of those begin.
const WINDOW: &str = "LNRO0005:";
/// Takes such a name, and returns when the device works.
const BIND: &str = "/sys/bus/platform/drivers/virtio-mmio/bind";

/// One look at a time: the next one finds what this one has found.
static LOOKING: Mutex<()> = Mutex::new(());

/// Has the kernel look at the windows without a driver, and returns when what has come since works.
pub fn look_again() {
    let _one = LOOKING.lock().unwrap_or_else(PoisonError::into_inner);
    probe(Path::new(DEVICES), |window| fs::write(BIND, window));
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
}
