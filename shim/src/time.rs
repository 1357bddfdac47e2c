//! Times as messages have them.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::generated::events::ExitTime;
use crate::generated::task::Timestamp;

/// Seconds and nanoseconds since 1970.
pub fn since_epoch(time: SystemTime) -> (i64, i32) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    (
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        i32::try_from(since.subsec_nanos()).unwrap_or(0),
    )
}

/// For an answer.
pub fn stamp(time: SystemTime) -> Timestamp {
    let (seconds, nanos) = since_epoch(time);
    Timestamp {
        seconds,
        nanos,
        ..Default::default()
    }
}

/// For an event.
pub fn of_exit(time: SystemTime) -> ExitTime {
    let (seconds, nanos) = since_epoch(time);
    ExitTime {
        seconds,
        nanos,
        ..Default::default()
    }
}
