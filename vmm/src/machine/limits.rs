//! Rate limits of the API, as the devices take them.

use std::io;

use koya_api::config::{RateLimiter as Limits, TokenBucket};
use koya_devices::RateLimiter;
use koya_devices::rate_limiter::{BucketConfig, BucketUpdate};

fn bucket(config: TokenBucket) -> BucketConfig {
    BucketConfig {
        size: config.size,
        one_time_burst: config.one_time_burst.unwrap_or(0),
        refill_time_ms: config.refill_time,
    }
}

/// The limiter of a new device.
pub(super) fn limiter(limits: Option<Limits>) -> io::Result<RateLimiter> {
    let limits = limits.unwrap_or_default();
    RateLimiter::new(limits.bandwidth.map(bucket), limits.ops.map(bucket))
}

/// What a change asks of a running limiter, for bytes and for operations. What is not named stays; a bucket that
/// limits nothing lifts the limit.
pub(super) fn limiter_update(limits: Option<Limits>) -> (BucketUpdate, BucketUpdate) {
    let update = |bucket_config: Option<TokenBucket>| match bucket_config {
        None => BucketUpdate::Keep,
        Some(config) if config.limits() => BucketUpdate::Replace(bucket(config)),
        Some(_) => BucketUpdate::Disable,
    };
    let limits = limits.unwrap_or_default();
    (update(limits.bandwidth), update(limits.ops))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_keeps_replaces_or_lifts_each_limit() {
        let limit = TokenBucket {
            size: 10,
            one_time_burst: None,
            refill_time: 100,
        };
        let lift = TokenBucket { size: 0, ..limit };
        assert_eq!(limiter_update(None), (BucketUpdate::Keep, BucketUpdate::Keep));
        let (bytes, ops) = limiter_update(Some(Limits {
            bandwidth: Some(limit),
            ops: Some(lift),
        }));
        assert!(matches!(
            bytes,
            BucketUpdate::Replace(BucketConfig {
                size: 10,
                refill_time_ms: 100,
                ..
            })
        ));
        assert_eq!(ops, BucketUpdate::Disable);
    }
}
