//! Signals by name or number.

/// Names without SIG, at their numbers (signal(7), x86-64).
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
/// The first real-time signal that a program can use, and the last.
const REAL_TIME: (u32, u32) = (34, 64);

/// A text that is no signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no signal: give a name as TERM, or a number from 1 to {last}", last = REAL_TIME.1)]
pub struct SignalError(String);

/// A signal's number, 1 to 64: `9`, `KILL`, `SIGKILL`, `RTMIN+3`, `RTMAX-1`, in capitals or not.
///
/// # Errors
/// [`SignalError`]
pub fn parse(text: &str) -> Result<u32, SignalError> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |text: &str, sign| match text {
        "" => Some(0),
        more => more.strip_prefix(sign).and_then(|more| more.parse::<u32>().ok()),
    };
    let number = if let Some(index) = NAMES.iter().position(|&known| known == name) {
        u32::try_from(index.saturating_add(1)).ok()
    } else if let Some(more) = name.strip_prefix("RTMIN") {
        offset(more, '+').and_then(|more| REAL_TIME.0.checked_add(more))
    } else if let Some(less) = name.strip_prefix("RTMAX") {
        offset(less, '-').and_then(|less| REAL_TIME.1.checked_sub(less))
    } else {
        name.parse().ok()
    };
    number
        .filter(|number| (1..=REAL_TIME.1).contains(number))
        .ok_or_else(|| SignalError(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_mean_the_same() {
        for (text, number) in [
            ("KILL", 9),
            ("sigterm", 15),
            ("9", 9),
            ("SIGRTMIN+3", 37),
            ("RTMIN", 34),
            ("RTMAX-1", 63),
            ("SYS", 31),
        ] {
            assert_eq!(parse(text), Ok(number), "{text}");
        }
        for text in ["", "0", "65", "SIGNONSENSE", "RTMIN+31", "RTMAX-64", "-9"] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains("1 to 64"), "{text}: {error}");
        }
    }
}
