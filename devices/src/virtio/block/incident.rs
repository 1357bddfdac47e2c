//! Telling a person about requests that the host could not carry out, without flooding them.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use super::request::{Kind, Request};

/// A failing disk fails thousands of times a second; one line in this time says enough.
const INTERVAL: Duration = Duration::from_secs(10);

/// The host failed to carry out a request of the guest. Its `Display` is a line for the log.
struct Incident<'a> {
    drive: &'a str,
    request: &'a Request,
    error: &'a io::Error,
    /// Further failures since the last line.
    untold: u64,
}

impl fmt::Display for Incident<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Request {
            kind,
            offset,
            data_len,
        } = self.request;
        write!(f, "drive {}: cannot ", self.drive)?;
        match kind {
            Kind::Read => write!(f, "read {data_len} bytes at {offset}")?,
            Kind::Write => write!(f, "write {data_len} bytes at {offset}")?,
            Kind::Flush => f.write_str("flush")?,
            Kind::GetId => f.write_str("tell its serial number")?,
            Kind::Discard => f.write_str("discard")?,
            Kind::WriteZeroes => f.write_str("write zeroes")?,
        }
        write!(f, ", so the guest got an I/O error: {}", self.error)?;
        if self.untold > 0 {
            write!(f, " ({} more errors since the last message)", self.untold)?;
        }
        Ok(())
    }
}

/// Logs the first incident, then at most one every ten seconds.
#[derive(Default)]
pub(super) struct Reporter {
    last: Option<Instant>,
    untold: u64,
}

impl Reporter {
    /// The host failed to carry out a `request` to `drive`.
    pub(super) fn tell(&mut self, drive: &str, request: &Request, error: &io::Error) {
        if let Some(untold) = self.due(Instant::now()) {
            log::error!(
                "{}",
                Incident {
                    drive,
                    request,
                    error,
                    untold
                }
            );
        }
    }

    /// Whether it is time for a line, and how many there would have been since the last.
    fn due(&mut self, now: Instant) -> Option<u64> {
        if self
            .last
            .is_some_and(|last| now.saturating_duration_since(last) < INTERVAL)
        {
            self.untold = self.untold.saturating_add(1);
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects)]

    use super::*;

    #[test]
    fn a_flood_of_failures_becomes_a_line_every_ten_seconds() {
        let mut reporter = Reporter::default();
        let start = Instant::now();
        let told: Vec<u64> = (0..=20_000)
            .step_by(10)
            .filter_map(|millis| reporter.due(start + Duration::from_millis(millis)))
            .collect();
        assert_eq!(told, [0, 999, 999]);
    }

    #[test]
    fn a_line_names_the_drive_what_it_was_asked_for_and_the_cause() {
        let error = io::Error::from_raw_os_error(libc::ENOSPC);
        let request = Request {
            kind: Kind::Write,
            offset: 512,
            data_len: 4096,
        };
        let line = Incident {
            drive: "data",
            request: &request,
            error: &error,
            untold: 3,
        }
        .to_string();
        assert_eq!(
            line,
            "drive data: cannot write 4096 bytes at 512, so the guest got an I/O error: No space left on device \
             (os error 28) (3 more errors since the last message)"
        );
    }
}
