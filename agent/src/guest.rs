//! The guest as a machine: what it is, its clock, its random numbers.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use koya_proto::v1::DetailsResponse;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};

use crate::error::{Result, invalid, runtime};

/// Entropy that is worth a reseed, and that the kernel's pool has room for.
const ENTROPY: std::ops::RangeInclusive<usize> = 32..=512;

/// Kernel, processors, memory.
pub fn details() -> Result<DetailsResponse> {
    let failed = || runtime("ask the kernel about this guest");
    let system = nix::sys::utsname::uname().map_err(|errno| failed()(errno.into()))?;
    let text = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
    let memory = fs::read_to_string("/proc/meminfo").map_err(failed())?;
    let uptime = clock_gettime(ClockId::CLOCK_BOOTTIME).map_err(|errno| failed()(errno.into()))?;
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    Ok(DetailsResponse {
        kernel_release: text(system.release()),
        kernel_version: text(system.version()),
        architecture: text(system.machine()),
        hostname: text(system.nodename()),
        cpus_online: u32::try_from(std::thread::available_parallelism().map_or(1, usize::from))
            .unwrap_or(u32::MAX),
        memory_total_bytes: kilobytes(&memory, "MemTotal:"),
        memory_available_bytes: kilobytes(&memory, "MemAvailable:"),
        cgroup_controllers: controllers.split_whitespace().map(str::to_owned).collect(),
        boot_time_ns: u64::try_from(Duration::from(uptime).as_nanos()).unwrap_or(u64::MAX),
        ..Default::default()
    })
}

/// A line "Name:   123 kB" in bytes.
fn kilobytes(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or(0).saturating_mul(1024)
}

/// Sets the wall clock.
pub fn set_clock(seconds: i64, nanoseconds: u32) -> Result<()> {
    if seconds < 0 || nanoseconds > 999_999_999 {
        return Err(invalid(format!(
            "{seconds} s and {nanoseconds} ns are no time; want seconds since 1970 and less than 1000000000 ns"
        )));
    }
    let time = TimeSpec::new(seconds, i64::from(nanoseconds));
    clock_settime(ClockId::CLOCK_REALTIME, time).map_err(|errno| runtime("set the clock")(errno.into()))
}

/// What the kernel takes entropy as: `struct rand_pool_info` of linux/random.h.
#[repr(C)]
struct Pool {
    entropy_bits: libc::c_int,
    length: libc::c_int,
    bytes: [u8; *ENTROPY.end()],
}

nix::ioctl_write_ptr_bad!(
    /// Adds entropy and credits it.
    add_entropy,
    nix::request_code_write!(b'R', 0x03, size_of::<[libc::c_int; 2]>()),
    Pool
);
nix::ioctl_none!(
    /// Has the generator take a new key from the pool at once.
    reseed_generator,
    b'R',
    0x07
);

/// Mixes entropy in and renews the generator.
pub fn reseed(entropy: &[u8]) -> Result<()> {
    if !ENTROPY.contains(&entropy.len()) {
        let (least, most) = (ENTROPY.start(), ENTROPY.end());
        return Err(invalid(format!(
            "entropy has {} bytes; want {least} to {most}",
            entropy.len()
        )));
    }
    let mut bytes = [0; *ENTROPY.end()];
    bytes.iter_mut().zip(entropy).for_each(|(to, from)| *to = *from);
    let length = i32::try_from(entropy.len()).unwrap_or(0);
    let entropy_bits = length.saturating_mul(8);
    let pool = Pool {
        entropy_bits,
        length,
        bytes,
    };
    let renew = || -> io::Result<()> {
        let random = File::options().write(true).open("/dev/urandom")?;
        // SAFETY: the kernel reads the two numbers and `length` bytes after
        // them, all of which `pool` has and which live through the call.
        unsafe { add_entropy(random.as_raw_fd(), &raw const pool) }?;
        // SAFETY: it takes no argument.
        unsafe { reseed_generator(random.as_raw_fd()) }?;
        Ok(())
    };
    renew().map_err(runtime("reseed the kernel's random generator"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_in_bytes() {
        assert_eq!(
            kilobytes("MemTotal:       2048 kB\nMemFree: 1 kB\n", "MemTotal:"),
            2 << 20
        );
        assert_eq!(kilobytes("", "MemTotal:"), 0);
        let details = details().unwrap();
        assert!(details.memory_total_bytes > details.memory_available_bytes);
        assert!(details.cpus_online >= 1 && details.boot_time_ns > 0);
        assert_eq!(details.architecture, "x86_64");
    }

    #[test]
    fn times_and_entropy_have_bounds() {
        assert!(set_clock(-1, 0).is_err());
        assert!(set_clock(0, 1_000_000_000).is_err());
        assert!(reseed(&[0; 31]).unwrap_err().message.contains("32 to 512"));
        assert!(reseed(&[0; 513]).is_err());
    }
}
