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

fn make_persistent(name: &str) -> io::Result<()> {
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
    if made < 0 {
        let error = io::Error::last_os_error();
        // A VMM has it open: it is there.
        return match error.raw_os_error() {
            Some(libc::EBUSY) => Ok(()),
            _ => Err(error),
        };
    }
    // SAFETY: TUNSETPERSIST takes a number, no pointer.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETPERSIST, 1) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
