//! How a container that runs is doing: what is asked of it, and what was found.

use serde::{Deserialize, Serialize};

/// Probes of which is kept how they went; docker's number.
const MAX_PROBES: usize = 5;

/// A command that is run in a container from time to time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheck {
    /// A program and its arguments; not empty. Exit code 0 is health.
    pub command: Vec<String>,
    /// Milliseconds before each run.
    pub interval_ms: u64,
    /// Milliseconds that a run may take.
    pub timeout_ms: u64,
    /// Milliseconds after the container's start in which a failure does not count.
    pub start_period_ms: u64,
    /// Failures in a row that make it unhealthy; at least 1.
    pub retries: u32,
}

impl HealthCheck {
    /// How often it runs, and how long it may take, if nobody says; docker's.
    pub const USUAL_MS: u64 = 30_000;
    /// How many failures in a row count, if nobody says; docker's.
    pub const USUAL_RETRIES: u32 = 3;
}

/// What has been found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// It has not been healthy yet, and may not be.
    #[default]
    Starting,
    /// The last run went well.
    Healthy,
    /// The last runs did not.
    Unhealthy,
}

impl HealthStatus {
    /// docker's word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// One run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// Nanoseconds since 1970 UTC.
    pub start: u64,
    /// The same.
    pub end: u64,
    /// -1 if it could not be run, or took too long.
    pub exit_code: i32,
    /// What it wrote, cut.
    pub output: String,
}

/// How a container is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// In a word.
    pub status: HealthStatus,
    /// Failures in a row.
    pub failing_streak: u32,
    /// The last runs, the newest last.
    pub log: Vec<Probe>,
}

impl Health {
    /// Takes in how a run went, of a container that was started at `started` (nanoseconds since 1970 UTC).
    pub fn note(&mut self, check: &HealthCheck, probe: Probe, started: u64) {
        let since = probe.end.saturating_sub(started) / 1_000_000;
        if probe.exit_code == 0 {
            (self.status, self.failing_streak) = (HealthStatus::Healthy, 0);
        } else if self.status != HealthStatus::Starting || since >= check.start_period_ms {
            self.failing_streak = self.failing_streak.saturating_add(1);
            if self.failing_streak >= check.retries {
                self.status = HealthStatus::Unhealthy;
            }
        }
        if self.log.len() >= MAX_PROBES {
            self.log.remove(0);
        }
        self.log.push(probe);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects)]

    use super::*;

    fn probe(seconds: u64, exit_code: i32) -> Probe {
        let at = seconds * 1_000_000_000;
        Probe {
            start: at,
            end: at,
            exit_code,
            output: String::new(),
        }
    }

    #[test]
    fn failures_count_in_a_row_and_after_the_beginning() {
        let check = HealthCheck {
            command: vec!["true".to_owned()],
            interval_ms: 1000,
            timeout_ms: 1000,
            start_period_ms: 5000,
            retries: 2,
        };
        let mut health = Health::default();
        let mut after = |seconds: u64, code| {
            health.note(&check, probe(100 + seconds, code), 100_000_000_000);
            (health.status, health.failing_streak)
        };
        assert_eq!(after(4, 1), (HealthStatus::Starting, 0), "in its beginning");
        assert_eq!(after(6, -1), (HealthStatus::Starting, 1));
        assert_eq!(after(7, 0), (HealthStatus::Healthy, 0));
        assert_eq!(after(8, 1), (HealthStatus::Healthy, 1));
        assert_eq!(after(9, 1), (HealthStatus::Unhealthy, 2));
        assert_eq!(after(10, 0), (HealthStatus::Healthy, 0));
        let kept: Vec<i32> = health.log.iter().map(|probe| probe.exit_code).collect();
        assert_eq!(kept, [-1, 0, 1, 1, 0]);
    }
}
