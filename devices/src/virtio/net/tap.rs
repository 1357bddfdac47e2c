//! A tap: a network interface of the host whose other end is a descriptor.
//!
//! The tap must exist: whoever prepares the network makes it, with its addresses and its owner. One that is missing is
//! refused rather than made, because nothing would be connected to it.

use std::ffi::{CStr, CString};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use libc::{c_int, c_short, c_uint, ifreq};

use super::backend::{Gather, NetBackend, Offloads, Scatter};
use super::packet::HEADER_LEN;

const DEVICE: &str = "/dev/net/tun";
/// Longest name of an interface: IFNAMSIZ without the closing zero.
const NAME_MAX: usize = 15;

/// The tap cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// Not a name of an interface.
    #[error(
        "`{0}` cannot be the name of a tap: it must have 1 to {NAME_MAX} bytes, none of them a space or one of / : %"
    )]
    Name(String),
    /// There is no interface of this name.
    #[error("there is no tap `{0}`: `ip tuntap add {0} mode tap` makes one, `ip link set {0} up` starts it")]
    Missing(String),
    /// The interface is something else.
    #[error(
        "`{name}` is not a tap but {kind}: choose another name, `ip tuntap add NAME mode tap` makes a tap"
    )]
    NotATap {
        /// Name of the interface.
        name: String,
        /// What it is.
        kind: String,
    },
    /// The tap was made for several queues.
    #[error("the tap `{0}` was made with several queues: make it again without `multi_queue`")]
    MultiQueue(String),
    /// Somebody else holds the tap.
    #[error("the tap `{0}` is in use by another process: a tap carries one microVM, give each its own")]
    Busy(String),
    /// The tap belongs to somebody else.
    #[error("no permission for the tap `{0}`: `ip tuntap add {0} mode tap user USER` makes one for a user")]
    Permission(String),
    /// The device behind all taps cannot be opened.
    #[error(
        "cannot open {DEVICE} for the tap `{name}`: it must be readable and writable, `modprobe tun` creates it"
    )]
    Open {
        /// Name of the interface.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The tap refuses to be set up.
    #[error("cannot set up the tap `{name}` ({request})")]
    SetUp {
        /// Name of the interface.
        name: String,
        /// The request that failed.
        request: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// An open tap. Closing it leaves a persistent tap in place, for the next to open.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
}

impl Tap {
    /// Opens the existing tap `name`.
    pub fn open(name: &str) -> Result<Self, TapError> {
        let terminated = check_name(name)?;
        let owned = || name.to_owned();
        // SAFETY: the argument is a string that ends with a zero and outlives the call.
        if unsafe { libc::if_nametoindex(terminated.as_ptr()) } == 0 {
            return Err(TapError::Missing(owned()));
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(DEVICE)
            .map_err(|source| TapError::Open {
                name: owned(),
                source,
            })?;
        let tap = Self { file, name: owned() };
        tap.attach(&terminated)?;
        let size = HEADER_LEN as c_int;
        // SAFETY: TUNSETVNETHDRSZ reads one int, which outlives the call.
        check(unsafe { libc::ioctl(tap.fd(), libc::TUNSETVNETHDRSZ, &raw const size) })
            .map_err(|source| tap.set_up_error("TUNSETVNETHDRSZ", source))?;
        // Another process may have held it before and left its own choice.
        tap.offload(0)
            .map_err(|source| tap.set_up_error("TUNSETOFFLOAD", source))?;
        Ok(tap)
    }

    /// Name of the interface.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn attach(&self, name: &CStr) -> Result<(), TapError> {
        let mut request = request(name);
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as c_short;
        // SAFETY: TUNSETIFF reads and writes one ifreq, which outlives the call.
        let result = check(unsafe { libc::ioctl(self.fd(), libc::TUNSETIFF, &raw mut request) });
        result.map_err(|source| {
            let owned = self.name.clone();
            match source.raw_os_error() {
                Some(libc::EBUSY) => TapError::Busy(owned),
                Some(libc::EPERM | libc::EACCES) => TapError::Permission(owned),
                Some(libc::EINVAL) => match kind_of(name) {
                    Ok(kind) if kind == "tap" => TapError::MultiQueue(owned),
                    Ok(kind) => TapError::NotATap { name: owned, kind },
                    Err(_) => self.set_up_error("TUNSETIFF", source),
                },
                _ => self.set_up_error("TUNSETIFF", source),
            }
        })
    }

    fn set_up_error(&self, request: &'static str, source: io::Error) -> TapError {
        TapError::SetUp {
            name: self.name.clone(),
            request,
            source,
        }
    }

    fn offload(&self, flags: c_uint) -> io::Result<()> {
        // SAFETY: TUNSETOFFLOAD takes a number, no pointer.
        check(unsafe { libc::ioctl(self.fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(flags)) })
    }
}

impl NetBackend for Tap {
    fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    fn set_offloads(&mut self, offloads: Offloads) -> io::Result<()> {
        let flag = |wanted: bool, flag: c_uint| if wanted { flag } else { 0 };
        let flags = flag(offloads.checksum, libc::TUN_F_CSUM)
            | flag(offloads.tso4, libc::TUN_F_TSO4)
            | flag(offloads.tso6, libc::TUN_F_TSO6)
            | flag(offloads.ufo, libc::TUN_F_UFO);
        let result = self.offload(flags);
        match result {
            // Some kernels cannot send large UDP datagrams whole; the guest takes them in fragments as well.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && offloads.ufo => {
                self.offload(flags & !libc::TUN_F_UFO)
            }
            result => result,
        }
    }

    fn receive(&mut self, into: &Scatter<'_>) -> io::Result<usize> {
        let pieces = into.pieces();
        loop {
            // SAFETY: `Scatter` promises that its pieces may be written while it lives.
            let read = unsafe { libc::readv(self.fd(), pieces.as_ptr(), count(pieces)) };
            match usize::try_from(read) {
                Ok(len) => return Ok(len),
                Err(_) => retry_if_interrupted(io::Error::last_os_error())?,
            }
        }
    }

    fn send(&mut self, frame: &Gather<'_>) -> io::Result<()> {
        let pieces = frame.pieces();
        loop {
            // SAFETY: `Gather` promises that its pieces may be read while it lives.
            let written = unsafe { libc::writev(self.fd(), pieces.as_ptr(), count(pieces)) };
            if written >= 0 {
                return Ok(());
            }
            retry_if_interrupted(io::Error::last_os_error())?;
        }
    }
}

fn count(pieces: &[libc::iovec]) -> c_int {
    c_int::try_from(pieces.len()).unwrap_or(c_int::MAX)
}

fn retry_if_interrupted(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::Interrupted {
        Ok(())
    } else {
        Err(error)
    }
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// A percent sign would make the kernel choose a name.
fn check_name(name: &str) -> Result<CString, TapError> {
    let allowed = |byte: u8| !byte.is_ascii_whitespace() && !b"/:%\0\x0b".contains(&byte);
    let valid =
        (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(allowed) && name != "." && name != "..";
    let refuse = || TapError::Name(name.chars().flat_map(char::escape_default).take(64).collect());
    if valid {
        CString::new(name).map_err(|_| refuse())
    } else {
        Err(refuse())
    }
}

fn request(name: &CStr) -> ifreq {
    // SAFETY: an ifreq of zeros is valid: an empty name and zeros in every member of its union.
    let mut request: ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.to_bytes()) {
        *to = from.cast_signed();
    }
    request
}

/// `struct ethtool_drvinfo` of the kernel.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    version: [u8; 32],
    firmware: [u8; 32],
    bus: [u8; 32],
    rest: [u8; 64],
}

const ETHTOOL_GDRVINFO: u32 = 3;

/// What kind of interface it is, in words: `tap`, or something for the message that says it is not one.
fn kind_of(name: &CStr) -> io::Result<String> {
    // Any family will do; a confined process may have this one.
    // SAFETY: socket takes no pointer.
    let socket = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    check(socket)?;
    // SAFETY: the descriptor was just made and belongs to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let mut info = DriverInfo {
        command: ETHTOOL_GDRVINFO,
        driver: [0; 32],
        version: [0; 32],
        firmware: [0; 32],
        bus: [0; 32],
        rest: [0; 64],
    };
    let mut request = request(name);
    request.ifr_ifru.ifru_data = (&raw mut info).cast();
    // SAFETY: SIOCETHTOOL reads and writes the ifreq and the structure that it points to; both outlive the call.
    let known = check(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) }).is_ok();
    let text = |bytes: &[u8]| {
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
    };
    Ok(
        match (known, text(&info.driver).as_str(), text(&info.bus).as_str()) {
            (true, "tun", "tap") => "tap".to_owned(),
            (true, "tun", _) => "a tun (mode tun carries no Ethernet)".to_owned(),
            (true, driver, _) if !driver.is_empty() => format!("an interface of the driver `{driver}`"),
            _ => "an interface of another kind".to_owned(),
        },
    )
}

const SIOCETHTOOL: libc::Ioctl = 0x8946;
