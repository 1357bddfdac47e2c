//! One token bucket. Time comes in from outside, so that its behaviour can be computed and tested exactly.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::RestoreError;

const NAME: &str = "token bucket";
const NANOS_PER_MILLI: u64 = 1_000_000;

/// A limit as it is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BucketConfig {
    /// Tokens in a full bucket; 0 means no limit.
    pub size: u64,
    /// Tokens beyond the bucket's size that can be spent once, before any others.
    pub one_time_burst: u64,
    /// Milliseconds in which an empty bucket becomes full; 0 means no limit.
    pub refill_time_ms: u64,
}

impl BucketConfig {
    /// Whether this is a limit at all.
    pub fn limits(&self) -> bool {
        self.size > 0 && self.refill_time_ms > 0
    }

    /// Saturates at some 584 years.
    fn refill_ns(&self) -> u64 {
        self.refill_time_ms.saturating_mul(NANOS_PER_MILLI)
    }
}

/// What became of a wish for tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reduction {
    Success,
    Failure,
    /// Granted, though it was more than the bucket can ever hold: block this long to make up for it.
    Overdrawn(Duration),
}

#[derive(Debug)]
pub(super) struct TokenBucket {
    config: BucketConfig,
    burst: u64,
    budget: u64,
    /// Up to when tokens have been earned.
    updated: Instant,
}

impl TokenBucket {
    /// A full bucket, or none when `config` is no limit.
    pub(super) fn new(config: BucketConfig, now: Instant) -> Option<Self> {
        config.limits().then_some(Self {
            config,
            burst: config.one_time_burst,
            budget: config.size,
            updated: now,
        })
    }

    pub(super) fn config(&self) -> BucketConfig {
        self.config
    }

    pub(super) fn reduce(&mut self, tokens: u64, now: Instant) -> Reduction {
        if self.burst >= tokens && self.burst > 0 {
            self.burst = self.burst.saturating_sub(tokens);
            self.updated = now;
            return Reduction::Success;
        }
        let tokens = tokens.saturating_sub(std::mem::take(&mut self.burst));
        // Also when there are enough: what a full bucket earns is lost, and must not be counted later.
        self.earn(now);
        if tokens > self.config.size {
            let debt = tokens.saturating_sub(std::mem::take(&mut self.budget));
            return Reduction::Overdrawn(self.time_for(debt));
        }
        match self.budget.checked_sub(tokens) {
            Some(left) => {
                self.budget = left;
                Reduction::Success
            }
            None => Reduction::Failure,
        }
    }

    pub(super) fn replenish(&mut self, tokens: u64) {
        if self.burst > 0 {
            self.burst = self.burst.saturating_add(tokens).min(self.config.one_time_burst);
        } else {
            self.budget = self.budget.saturating_add(tokens).min(self.config.size);
        }
    }

    /// Adds what was earned since the last time. A fraction of a token is not lost: the time it took counts next
    /// time.
    fn earn(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.updated).as_nanos();
        let refill = u128::from(self.config.refill_ns());
        if elapsed >= refill {
            self.budget = self.config.size;
            self.updated = now;
            return;
        }
        let earned = ratio(elapsed, u128::from(self.config.size), refill);
        self.budget = self.budget.saturating_add(earned).min(self.config.size);
        self.updated = self.updated.checked_add(self.time_for(earned)).unwrap_or(now);
    }

    /// The time in which `tokens` are earned, rounded up.
    fn time_for(&self, tokens: u64) -> Duration {
        let (refill, size) = (u128::from(self.config.refill_ns()), u128::from(self.config.size));
        let rounding = size.saturating_sub(1);
        let nanos = u128::from(tokens)
            .saturating_mul(refill)
            .saturating_add(rounding)
            .checked_div(size);
        Duration::from_nanos(
            nanos
                .and_then(|nanos| u64::try_from(nanos).ok())
                .unwrap_or(u64::MAX),
        )
    }

    pub(super) fn save(&self, now: Instant) -> BucketState {
        let elapsed = now.saturating_duration_since(self.updated).as_nanos();
        BucketState {
            config: self.config,
            burst: self.burst,
            budget: self.budget,
            elapsed_ns: u64::try_from(elapsed).unwrap_or(u64::MAX),
        }
    }

    pub(super) fn restore(state: &BucketState, now: Instant) -> Result<Self, RestoreError> {
        let BucketState {
            config,
            burst,
            budget,
            elapsed_ns,
        } = *state;
        RestoreError::check(
            config.limits(),
            NAME,
            "config",
            "a size and a refill time above zero",
        )?;
        RestoreError::check(
            burst <= config.one_time_burst,
            NAME,
            "burst",
            "at most `one_time_burst`",
        )?;
        RestoreError::check(budget <= config.size, NAME, "budget", "at most `size`")?;
        let updated = now.checked_sub(Duration::from_nanos(elapsed_ns)).unwrap_or(now);
        Ok(Self {
            config,
            burst,
            budget,
            updated,
        })
    }
}

/// `a * b / c`, at most `u64::MAX`.
fn ratio(a: u128, b: u128, c: u128) -> u64 {
    a.checked_mul(b)
        .and_then(|product| product.checked_div(c))
        .and_then(|quotient| u64::try_from(quotient).ok())
        .unwrap_or(u64::MAX)
}

/// A saved token bucket.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BucketState {
    /// The limit.
    pub config: BucketConfig,
    /// What is left of the one-time burst, in tokens.
    pub burst: u64,
    /// Tokens in the bucket.
    pub budget: u64,
    /// Nanoseconds for which tokens have not been added yet.
    pub elapsed_ns: u64,
}
