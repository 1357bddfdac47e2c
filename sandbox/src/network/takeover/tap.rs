//! Makes taps as `koya-vmm` opens them: one queue, a virtio-net header before each frame.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::TakeoverError;

/// Makes a tap that stays when nobody has it open, in the namespace of this thread. One that is there already is as wished.
pub(super) fn make(name: &str) -> Result<(), TakeoverError> {
    make_persistent(name).map_err(|source| TakeoverError::Tap {
        name: name.to_owned(),
        source,
    })
}

/// Removes one, unless somebody has it open; whether it is gone.
pub(super) fn remove(name: &str) -> Result<bool, TakeoverError> {
    let removed = match open(name) {
        Ok(file) => persist(&file, false).map(|()| true),
        // A VMM has it.
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(false),
        Err(error) => Err(error),
    };
    removed.map_err(|source| TakeoverError::Tap {
        name: name.to_owned(),
        source,
    })
}

/// Whether a VMM has it.
pub(super) fn is_open(name: &str) -> bool {
    matches!(open(name), Err(error) if error.raw_os_error() == Some(libc::EBUSY))
}

fn make_persistent(name: &str) -> io::Result<()> {
    match open(name) {
        Ok(file) => persist(&file, true),
        // A VMM has it open: it is there.
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Opens one, which is made if there is none.
fn open(name: &str) -> io::Result<File> {
    let file = File::options().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: an ifreq of zeros is valid: an empty name and zeros in every member of its union.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).unwrap_or_default();
    // SAFETY: TUNSETIFF reads and writes one ifreq, which outlives the call.
    let made = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    match made {
        0.. => Ok(file),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether it stays when nobody has it open.
fn persist(tap: &File, stays: bool) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST takes a number, no pointer.
    match unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETPERSIST, libc::c_ulong::from(stays)) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
