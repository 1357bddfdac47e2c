//! Sizes as docker writes them: `512m`, `2g`, `1073741824`.

use koya_sandbox::scratch::MIN_SIZE;

/// The least memory in which the kernel and the agent boot, in bytes.
const MIN_MEMORY: u64 = 64 << 20;

/// A size in bytes.
///
/// # Errors
/// What would be right, if it is none.
pub fn parse(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no size: write a number and b, k, m or g, as 512m");
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|unit: char| unit.is_ascii_alphabetic());
    let shift = match lower.get(digits.len()..) {
        Some("" | "b") => 0,
        Some("k" | "kb" | "kib") => 10,
        Some("m" | "mb" | "mib") => 20,
        Some("g" | "gb" | "gib") => 30,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

/// Memory of a microVM: whole MiB, and enough for a kernel with the agent.
///
/// # Errors
/// What would be right, if it is not.
pub fn memory(text: &str) -> Result<u64, String> {
    let bytes = parse(text)?;
    if bytes < MIN_MEMORY || !bytes.is_multiple_of(1 << 20) {
        return Err(format!(
            "{text:?} cannot be a microVM's memory: it has whole MiB, at least {}",
            MIN_MEMORY >> 20
        ));
    }
    Ok(bytes)
}

/// Size of a scratch disk.
///
/// # Errors
/// What would be right, if it is too small.
pub fn storage(text: &str) -> Result<u64, String> {
    let bytes = parse(text)?;
    if bytes < MIN_SIZE {
        return Err(format!(
            "{text:?} is too small for a file system: it takes at least {} MiB",
            MIN_SIZE >> 20
        ));
    }
    Ok(bytes)
}

/// A size for people.
pub fn show(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        unit = next;
        if value < 1000.0 || next == "TB" {
            break;
        }
        value /= 1000.0;
    }
    if unit == "B" {
        format!("{bytes}B")
    } else {
        format!("{value:.3}")
            .chars()
            .take(4)
            .collect::<String>()
            .trim_end_matches('.')
            .to_owned()
            + unit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_powers_of_two() {
        for (text, bytes) in [("512m", 512 << 20), ("2G", 2 << 30), ("7", 7), ("3kb", 3 << 10)] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in ["", "m", "1x", "-1", "1.5g", "99999999999g"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_cannot_boot_is_refused_before_anything_is_made() {
        assert_eq!(memory("64m"), Ok(64 << 20));
        for text in ["0", "63m", "100k", "67108865"] {
            assert!(memory(text).is_err(), "{text}");
        }
        assert!(storage("1m").is_err() && storage("16m").is_ok());
    }

    #[test]
    fn people_get_three_digits() {
        for (bytes, text) in [
            (999, "999B"),
            (1000, "1.00kB"),
            (124_567_890, "124MB"),
            (3_210_000_000, "3.21GB"),
        ] {
            assert_eq!(show(bytes), text);
        }
    }
}
