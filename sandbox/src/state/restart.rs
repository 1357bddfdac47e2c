//! Whether a container is started again when it has ended.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What comes after a container's end that nobody asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Nothing.
    #[default]
    No,
    /// A start, unless its exit code was 0.
    OnFailure {
        /// So often at most; 0: without end.
        most: u32,
    },
    /// A start.
    Always,
    /// The same: there is no daemon that would start what somebody has stopped.
    UnlessStopped,
}

/// A restart policy that nobody knows.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no restart policy; there are no, on-failure[:TIMES], always and unless-stopped")]
pub struct RestartPolicyError(String);

impl FromStr for RestartPolicy {
    type Err = RestartPolicyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "no" => Self::No,
            "always" => Self::Always,
            "unless-stopped" => Self::UnlessStopped,
            "on-failure" => Self::OnFailure { most: 0 },
            _ => {
                let most = text
                    .strip_prefix("on-failure:")
                    .and_then(|times| times.parse().ok());
                let most = most.ok_or_else(|| RestartPolicyError(text.to_owned()))?;
                Self::OnFailure { most }
            }
        })
    }
}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::No => "no",
            Self::OnFailure { .. } => "on-failure",
            Self::Always => "always",
            Self::UnlessStopped => "unless-stopped",
        })
    }
}

impl RestartPolicy {
    /// Whether a start follows an end with this exit code, of a container that was started again as often as `restarts`
    /// says.
    #[must_use]
    pub fn wants(self, code: u8, restarts: Restarts) -> bool {
        match self {
            Self::No => false,
            Self::OnFailure { most } => code != 0 && (most == 0 || restarts.count < most),
            Self::Always | Self::UnlessStopped => true,
        }
    }
}

/// How often a container has been started again since somebody started it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Restarts {
    /// So often.
    pub count: u32,
    /// How long was waited before the last time, in milliseconds.
    pub delay_ms: u64,
}

impl Restarts {
    /// The first wait; docker's.
    const FIRST_MS: u64 = 100;
    /// The longest.
    const LONGEST_MS: u64 = 60_000;
    /// Who has run so long waits no longer than at first.
    const STEADY: Duration = Duration::from_secs(10);

    /// After the next one, of a container that has run so long: twice as long is waited each time.
    #[must_use]
    pub fn next(self, ran: Duration) -> Self {
        let delay_ms = match ran >= Self::STEADY {
            true => Self::FIRST_MS,
            false => self
                .delay_ms
                .saturating_mul(2)
                .clamp(Self::FIRST_MS, Self::LONGEST_MS),
        };
        Self {
            count: self.count.saturating_add(1),
            delay_ms,
        }
    }

    /// How long to wait before it.
    #[must_use]
    pub fn delay(self) -> Duration {
        Duration::from_millis(self.delay_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read_as_docker_writes_them() {
        for text in ["no", "always", "unless-stopped", "on-failure"] {
            assert_eq!(text.parse::<RestartPolicy>().unwrap().to_string(), text);
        }
        let three: RestartPolicy = "on-failure:3".parse().unwrap();
        assert_eq!(three, RestartPolicy::OnFailure { most: 3 });
        for wrong in ["", "sometimes", "on-failure:", "on-failure:-1", "always:3"] {
            let error = wrong.parse::<RestartPolicy>().unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("{wrong:?} is no restart policy")),
                "{error}"
            );
        }
    }

    #[test]
    fn a_failure_is_tried_again_as_often_as_is_said() {
        let after = |count| Restarts { count, delay_ms: 0 };
        let three = RestartPolicy::OnFailure { most: 3 };
        assert!(three.wants(1, after(2)) && !three.wants(1, after(3)) && !three.wants(0, after(0)));
        assert!(RestartPolicy::OnFailure { most: 0 }.wants(1, after(u32::MAX)));
        assert!(RestartPolicy::Always.wants(0, after(7)) && !RestartPolicy::No.wants(1, after(0)));
    }

    #[test]
    fn who_fails_at_once_waits_longer_each_time() {
        let mut restarts = Restarts::default();
        let mut delays = Vec::new();
        for _ in 0..12 {
            restarts = restarts.next(Duration::from_secs(1));
            delays.push(restarts.delay_ms);
        }
        assert_eq!(delays[..4], [100, 200, 400, 800]);
        assert_eq!(delays[11], 60_000);
        let steady = restarts.next(Duration::from_secs(10));
        assert_eq!((steady.count, steady.delay_ms), (13, 100));
    }
}
