//! Clocks, as the logs and the boot timer show them.

use std::fmt::{self, Display, Formatter};

/// Reads one of the system's clocks; zero if the host lacks it.
fn read(clock: libc::clockid_t) -> libc::timespec {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is writable and of the type that the call fills in.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time
}

fn microseconds(time: libc::timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds
        .saturating_mul(1_000_000)
        .saturating_add(nanoseconds / 1000)
}

/// Microseconds of the monotonic clock.
pub fn monotonic_us() -> u64 {
    microseconds(read(libc::CLOCK_MONOTONIC))
}

/// Microseconds of processor time that this process has used.
pub fn cpu_us() -> u64 {
    microseconds(read(libc::CLOCK_PROCESS_CPUTIME_ID))
}

/// Milliseconds since 1970, UTC.
pub fn unix_ms() -> u64 {
    microseconds(read(libc::CLOCK_REALTIME)) / 1000
}

/// The local date and time, to the nanosecond, as ISO 8601 writes it.
pub struct LocalTime {
    date: libc::tm,
    nanoseconds: i64,
}

impl LocalTime {
    /// Now.
    pub fn now() -> Self {
        let time = read(libc::CLOCK_REALTIME);
        // SAFETY: the structure is integers and a pointer, for which all zeroes is a value.
        let mut date: libc::tm = unsafe { std::mem::zeroed() };
        // SAFETY: both point to valid values of their types for the duration of the call.
        unsafe { libc::localtime_r(&raw const time.tv_sec, &raw mut date) };
        Self {
            date,
            nanoseconds: time.tv_nsec,
        }
    }
}

impl Display for LocalTime {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let date = &self.date;
        write!(
            f,
            "{}-{:02}-{:02}T{:02}:{:02}:{:02}.{:09}",
            date.tm_year.saturating_add(1900),
            date.tm_mon.saturating_add(1),
            date.tm_mday,
            date.tm_hour,
            date.tm_min,
            date.tm_sec,
            self.nanoseconds
        )
    }
}
