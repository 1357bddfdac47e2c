//! Limits on bytes and operations per second, as token buckets with Firecracker's semantics.
//!
//! A device asks [`RateLimiter::consume_request`] before each request. When that says no, the limiter has set a timer; the
//! device puts the request back, lists [`RateLimiter::timer`] among its backend events, and goes on
//! when [`RateLimiter::process_timer`] says so.
//!
//! A limiter without limits costs nothing: no descriptor, no system call, no look at the clock.

mod bucket;
mod timer;

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::RestoreError;
pub use bucket::{BucketConfig, BucketState};
use bucket::{Reduction, TokenBucket};
use timer::Timer;

/// How long a limiter that ran out of tokens waits before it lets its device try again. Shorter waits make
/// smoother traffic, longer ones fewer wake-ups; Firecracker waits as long.
const RETRY: Duration = Duration::from_millis(100);
/// Version of [`RateLimiterState`].
const VERSION: u32 = 1;
const NAME: &str = "rate limiter";

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Bytes moved.
    Bytes,
    /// Requests made.
    Ops,
}

/// What to do with one of the two limits of a running limiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BucketUpdate {
    /// Leave it, tokens and all.
    Keep,
    /// Lift it.
    Disable,
    /// Replace it by a new, full bucket.
    Replace(BucketConfig),
}

/// A limit on bytes, on operations, on both or on none (the default).
#[derive(Debug, Default)]
pub struct RateLimiter {
    bytes: Option<TokenBucket>,
    ops: Option<TokenBucket>,
    timer: Option<Timer>,
    blocked_until: Option<Instant>,
}

impl RateLimiter {
    /// A limiter with full buckets. A bucket with a size or a refill time of zero is no limit.
    ///
    /// Fails if there is a limit and the host gives no timer.
    pub fn new(bytes: Option<BucketConfig>, ops: Option<BucketConfig>) -> io::Result<Self> {
        let mut limiter = Self::default();
        limiter.update(to_update(bytes), to_update(ops))?;
        Ok(limiter)
    }

    /// Takes `tokens`, or says no.
    ///
    /// Says no while it waits for the timer, whatever the kind. A request larger than the whole bucket is let
    /// through, or it would never be; what it took too much is paid by blocking for as long as the bucket takes to
    /// earn it.
    pub fn consume(&mut self, tokens: u64, kind: TokenKind) -> bool {
        if self.timer.is_none() {
            return true;
        }
        self.consume_at(tokens, kind, Instant::now())
    }

    /// Takes one operation and `bytes`, or neither: both limits must agree.
    pub fn consume_request(&mut self, bytes: u64) -> bool {
        if !self.consume(1, TokenKind::Ops) {
            return false;
        }
        let granted = bytes == 0 || self.consume(bytes, TokenKind::Bytes);
        if !granted {
            self.replenish(1, TokenKind::Ops);
        }
        granted
    }

    fn consume_at(&mut self, tokens: u64, kind: TokenKind, now: Instant) -> bool {
        if self.blocked_until.is_some() {
            return false;
        }
        let Some(bucket) = self.bucket(kind) else {
            return true;
        };
        match bucket.reduce(tokens, now) {
            Reduction::Success => true,
            Reduction::Failure => {
                self.block(RETRY, now);
                !self.is_blocked()
            }
            Reduction::Overdrawn(debt) => {
                self.block(debt, now);
                true
            }
        }
    }

    /// Gives tokens back, because the request they were taken for did not happen.
    pub fn replenish(&mut self, tokens: u64, kind: TokenKind) {
        if let Some(bucket) = self.bucket(kind) {
            bucket.replenish(tokens);
        }
    }

    /// Whether the limiter waits for its timer and says no to everything.
    pub fn is_blocked(&self) -> bool {
        self.blocked_until.is_some()
    }

    /// The timer's descriptor, if there is or was a limit: readable when the wait is over. Once there it stays the
    /// same.
    pub fn timer(&self) -> Option<RawFd> {
        self.timer.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// To be called when [`timer`](Self::timer) is readable. True when the wait is over and the device can go on;
    /// false when the event was stale.
    pub fn process_timer(&mut self) -> bool {
        let expired = self.timer.as_mut().is_some_and(Timer::expired);
        if expired {
            self.blocked_until = None;
        }
        expired
    }

    /// Changes the limits of a running limiter.
    ///
    /// A wait that is under way ends as planned. The first limit ever makes [`timer`](Self::timer) appear, and
    /// whoever watches it must be told.
    pub fn update(&mut self, bytes: BucketUpdate, ops: BucketUpdate) -> io::Result<()> {
        let now = Instant::now();
        let limits = [bytes, ops]
            .iter()
            .any(|update| matches!(update, BucketUpdate::Replace(config) if config.limits()));
        if limits && self.timer.is_none() {
            self.timer = Some(Timer::new()?);
        }
        apply(&mut self.bytes, bytes, now);
        apply(&mut self.ops, ops, now);
        Ok(())
    }

    /// The limits in force: bytes, operations.
    pub fn limits(&self) -> (Option<BucketConfig>, Option<BucketConfig>) {
        (
            self.bytes.as_ref().map(TokenBucket::config),
            self.ops.as_ref().map(TokenBucket::config),
        )
    }

    /// Limits, tokens left and the rest of a wait.
    pub fn save(&self) -> RateLimiterState {
        let now = Instant::now();
        let wait = self
            .blocked_until
            .map(|until| until.saturating_duration_since(now));
        RateLimiterState {
            version: VERSION,
            bytes: self.bytes.as_ref().map(|bucket| bucket.save(now)),
            ops: self.ops.as_ref().map(|bucket| bucket.save(now)),
            blocked_ns: wait.map(|wait| u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX)),
        }
    }

    /// A limiter as it was saved. Time that passed in between earned no tokens.
    pub fn restore(state: &RateLimiterState) -> Result<Self, RestoreError> {
        RestoreError::check_version(NAME, state.version, VERSION)?;
        let now = Instant::now();
        let restore = |bucket: &Option<BucketState>| {
            bucket
                .as_ref()
                .map(|bucket| TokenBucket::restore(bucket, now))
                .transpose()
        };
        let mut limiter = Self {
            bytes: restore(&state.bytes)?,
            ops: restore(&state.ops)?,
            timer: None,
            blocked_until: None,
        };
        let limited = limiter.bytes.is_some() || limiter.ops.is_some();
        if limited || state.blocked_ns.is_some() {
            limiter.timer = Some(Timer::new().map_err(|source| RestoreError::Host { device: NAME, source })?);
        }
        if let Some(wait) = state.blocked_ns {
            limiter.block(Duration::from_nanos(wait), now);
        }
        Ok(limiter)
    }

    fn bucket(&mut self, kind: TokenKind) -> Option<&mut TokenBucket> {
        match kind {
            TokenKind::Bytes => self.bytes.as_mut(),
            TokenKind::Ops => self.ops.as_mut(),
        }
    }

    fn block(&mut self, wait: Duration, now: Instant) {
        // Without a working timer nobody would ever unblock: better unlimited than stuck.
        let armed = self.timer.as_mut().is_some_and(|timer| timer.arm(wait).is_ok());
        if armed {
            self.blocked_until = Some(now.checked_add(wait).unwrap_or(now));
        }
    }
}

fn to_update(config: Option<BucketConfig>) -> BucketUpdate {
    config.map_or(BucketUpdate::Disable, BucketUpdate::Replace)
}

fn apply(bucket: &mut Option<TokenBucket>, update: BucketUpdate, now: Instant) {
    match update {
        BucketUpdate::Keep => {}
        BucketUpdate::Disable => *bucket = None,
        BucketUpdate::Replace(config) => *bucket = TokenBucket::new(config, now),
    }
}

/// A saved [`RateLimiter`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimiterState {
    /// Format version, 1.
    pub version: u32,
    /// The limit on bytes.
    pub bytes: Option<BucketState>,
    /// The limit on operations.
    pub ops: Option<BucketState>,
    /// What was left of a wait, in nanoseconds.
    pub blocked_ns: Option<u64>,
}

#[cfg(test)]
mod tests;
