//! Limits on how fast a device may work: two token buckets, one for bytes and one for operations.

use serde::{Deserialize, Serialize};

/// A bucket that starts full, is drawn on by every operation and refills at a constant rate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenBucket {
    /// How many tokens it holds.
    pub size: u64,
    /// Tokens on top of `size` that are there once, at the start, and not refilled.
    pub one_time_burst: Option<u64>,
    /// Milliseconds it takes to fill an empty bucket.
    pub refill_time: u64,
}

impl TokenBucket {
    /// Whether the bucket limits anything: one without size or refill time does not.
    pub fn limits(&self) -> bool {
        self.size != 0 && self.refill_time != 0
    }
}

/// A limit on bytes, on operations, or on both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimiter {
    /// Tokens are bytes.
    pub bandwidth: Option<TokenBucket>,
    /// Tokens are operations.
    pub ops: Option<TokenBucket>,
}

impl RateLimiter {
    /// Whether either bucket limits anything.
    pub fn limits(&self) -> bool {
        [self.bandwidth, self.ops]
            .into_iter()
            .flatten()
            .any(|bucket| bucket.limits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_limiter_or_bucket_limits_nothing() {
        let limiter: RateLimiter = serde_json::from_str("{}").unwrap();
        assert!(!limiter.limits());
        let limiter: RateLimiter = serde_json::from_str(r#"{"ops":{"size":0,"refill_time":100}}"#).unwrap();
        assert!(!limiter.limits());
        let limiter: RateLimiter =
            serde_json::from_str(r#"{"bandwidth":{"size":1000000,"refill_time":100}}"#).unwrap();
        assert!(limiter.limits());
    }

    #[test]
    fn it_is_reported_with_every_field() {
        let limiter = RateLimiter {
            ops: Some(TokenBucket {
                size: 500,
                one_time_burst: None,
                refill_time: 100,
            }),
            bandwidth: None,
        };
        assert_eq!(
            serde_json::to_string(&limiter).unwrap(),
            r#"{"bandwidth":null,"ops":{"size":500,"one_time_burst":null,"refill_time":100}}"#
        );
    }
}
