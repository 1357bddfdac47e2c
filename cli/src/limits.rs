//! Limits and rights as the command line has them.

use koya_sandbox::container::{self, DiskLimit, Resources};

use crate::args::{LimitArgs, ShareArgs};
use crate::size;

/// Billionths of a processor in a whole one.
const NANO: u64 = 1_000_000_000;
/// The least memory with which a container can be started; docker's.
const MIN_MEMORY: u64 = 6 << 20;
/// The serial of the disk that a container writes to.
const SCRATCH: &str = "scratch";

/// Processors, as `1.5`, in billionths of one.
///
/// # Errors
/// What would be right, if it is none.
pub fn cpus(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no number of processors: write as 2 or 1.5, at least 0.01");
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if part.is_empty() || part.len() > 9 || !digits(whole) || !digits(part) {
        return Err(wrong());
    }
    let whole: u64 = if whole.is_empty() {
        0
    } else {
        whole.parse().map_err(|_| wrong())?
    };
    let part: u64 = format!("{part:0<9}").parse().map_err(|_| wrong())?;
    let nano = whole.checked_mul(NANO).and_then(|whole| whole.checked_add(part));
    nano.filter(|&nano| nano >= NANO / 100).ok_or_else(wrong)
}

/// Memory of a container.
///
/// # Errors
/// What would be right, if nothing can run in it.
pub fn memory(text: &str) -> Result<u64, String> {
    match size::parse(text)? {
        bytes if bytes >= MIN_MEMORY => Ok(bytes),
        _ => Err(format!(
            "{text:?} is too little memory for a container: it takes at least {}m",
            MIN_MEMORY >> 20
        )),
    }
}

/// Memory and swap together; -1 is any.
///
/// # Errors
/// What would be right, if it is none.
pub fn swap(text: &str) -> Result<i64, String> {
    if text == "-1" {
        return Ok(-1);
    }
    i64::try_from(size::parse(text)?).map_err(|_| format!("{text:?} is too much"))
}

/// A capability's name.
///
/// # Errors
/// That Linux has none of this name.
pub fn capability(text: &str) -> Result<String, String> {
    container::capability(text).map_err(|error| error.to_string())
}

/// The limits that the arguments ask for.
pub fn resources(args: &LimitArgs) -> Resources {
    let disk = DiskLimit {
        serial: SCRATCH.to_owned(),
        read_bps: args.device_read_bps,
        write_bps: args.device_write_bps,
        read_iops: args.device_read_iops,
        write_iops: args.device_write_iops,
    };
    let limits_disk = [disk.read_bps, disk.write_bps, disk.read_iops, disk.write_iops]
        .iter()
        .any(Option::is_some);
    Resources {
        disks: limits_disk.then_some(disk).into_iter().collect(),
        ..shares(&args.shares)
    }
}

/// Those of them that can be changed.
pub fn shares(args: &ShareArgs) -> Resources {
    Resources {
        nano_cpus: args.cpus,
        cpu_shares: args.cpu_shares,
        cpuset_cpus: args.cpuset_cpus.clone(),
        memory: args.memory,
        memory_swap: args.memory_swap,
        memory_reservation: args.memory_reservation,
        pids_limit: args.pids_limit.filter(|&limit| limit != 0),
        disks: Vec::new(),
    }
}

/// How many processors a microVM needs for a container that may use this many billionths of one.
pub fn vcpus(nano_cpus: Option<u64>) -> u8 {
    let whole = nano_cpus.unwrap_or(NANO).div_ceil(NANO);
    u8::try_from(whole.clamp(1, 32)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_may_be_parts_of_one() {
        for (text, nano) in [
            ("1", NANO),
            ("1.5", 1_500_000_000),
            (".25", 250_000_000),
            ("0.01", 10_000_000),
        ] {
            assert_eq!(cpus(text), Ok(nano), "{text}");
        }
        for text in [
            "",
            ".",
            "0",
            "0.001",
            "-1",
            "1e3",
            "1.",
            "x",
            "99999999999999999999",
        ] {
            assert!(cpus(text).is_err(), "{text}");
        }
        assert_eq!(
            [None, Some(1), Some(1_500_000_000), Some(u64::MAX)].map(vcpus),
            [1, 1, 2, 32]
        );
    }

    #[test]
    fn what_cannot_run_is_refused() {
        assert_eq!(memory("6m"), Ok(6 << 20));
        assert!(memory("5m").unwrap_err().contains("at least 6m"));
        assert_eq!(swap("-1"), Ok(-1));
        assert!(swap("-2").is_err());
    }
}
