//! How often, and after what pauses, a request is made again.

use std::thread;
use std::time::{Duration, Instant};

use crate::registry::{PullOptions, RegistryError, Report};

/// Longest pause between two attempts, also if the registry asks for more.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Attempts that are left.
pub(in crate::registry) struct Patience<'a> {
    options: &'a PullOptions,
    failed: u32,
}

impl<'a> Patience<'a> {
    pub fn new(options: &'a PullOptions) -> Self {
        Self { options, failed: 0 }
    }

    /// Whether to try again; waits first. `asked` is how long the registry wants one to wait.
    pub fn again(
        &mut self,
        error: &RegistryError,
        asked: Option<Duration>,
        report: &Report<'_>,
    ) -> Result<bool, RegistryError> {
        if self.failed >= self.options.retries {
            return Ok(false);
        }
        let doubled = self.options.retry_pause.saturating_mul(1 << self.failed.min(10));
        let pause = asked.unwrap_or_default().max(doubled).min(PAUSE_MAX);
        self.failed = self.failed.saturating_add(1);
        report.retry(error, pause);
        let begun = Instant::now();
        while begun.elapsed() < pause {
            report.go_on()?;
            let left = pause.saturating_sub(begun.elapsed());
            thread::sleep(left.min(Duration::from_millis(50)));
        }
        Ok(true)
    }

    /// Something went well.
    pub fn renew(&mut self) {
        self.failed = 0;
    }
}
