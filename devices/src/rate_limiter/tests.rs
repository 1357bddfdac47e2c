#![allow(clippy::arithmetic_side_effects)]

use super::*;

fn limiter(size: u64, burst: u64, refill_time_ms: u64) -> (RateLimiter, Instant) {
    let config = BucketConfig {
        size,
        one_time_burst: burst,
        refill_time_ms,
    };
    let mut limiter = RateLimiter::new(Some(config), None).unwrap();
    let start = Instant::now();
    limiter.bytes = TokenBucket::new(config, start);
    (limiter, start)
}

/// Ends a wait as the timer's event would, without waiting.
fn unblock(limiter: &mut RateLimiter) {
    assert!(limiter.is_blocked());
    limiter.blocked_until = None;
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn without_limits_everything_passes_and_no_descriptor_is_opened() {
    for (size, refill) in [(0, 0), (0, 100), (100, 0)] {
        let config = BucketConfig {
            size,
            one_time_burst: 5,
            refill_time_ms: refill,
        };
        let mut limiter = RateLimiter::new(Some(config), Some(config)).unwrap();
        assert_eq!(limiter.timer(), None);
        assert!(limiter.consume(u64::MAX, TokenKind::Bytes));
        assert!(limiter.consume(u64::MAX, TokenKind::Ops));
        assert!(!limiter.is_blocked());
    }
}

#[test]
fn an_empty_bucket_blocks_every_kind_until_its_timer_fires() {
    let (mut limiter, start) = limiter(1000, 0, 1000);
    assert!(limiter.consume_at(1000, TokenKind::Bytes, start));
    assert!(!limiter.consume_at(1, TokenKind::Bytes, start));
    assert!(limiter.is_blocked());
    assert!(
        !limiter.consume_at(1, TokenKind::Ops, start + ms(5000)),
        "still waiting for the timer"
    );
    assert_eq!(limiter.blocked_until, Some(start + RETRY));
    unblock(&mut limiter);
    // 100 ms earn a tenth of the bucket.
    assert!(limiter.consume_at(100, TokenKind::Bytes, start + RETRY));
    assert!(!limiter.consume_at(1, TokenKind::Bytes, start + RETRY));
}

#[test]
fn tokens_are_earned_exactly_over_many_small_steps() {
    let (mut limiter, start) = limiter(7, 0, 1000);
    assert!(limiter.consume_at(7, TokenKind::Bytes, start));
    let mut granted = 0;
    // Rounding may cost a nanosecond for each token, so the last one comes just after three seconds.
    for step in 1..=3001 {
        if limiter.consume_at(1, TokenKind::Bytes, start + ms(step)) {
            granted += 1;
        } else {
            unblock(&mut limiter);
        }
    }
    assert_eq!(granted, 21);
}

#[test]
fn a_long_idle_bucket_holds_no_more_than_its_size() {
    let (mut limiter, start) = limiter(1000, 0, 1000);
    let later = start + ms(60_000);
    assert!(limiter.consume_at(1000, TokenKind::Bytes, later));
    assert!(!limiter.consume_at(1, TokenKind::Bytes, later));
}

#[test]
fn rounding_never_earns_a_token_too_early() {
    // A token takes 333,333⅓ ns.
    let (mut limiter, start) = limiter(3, 0, 1);
    assert!(limiter.consume_at(3, TokenKind::Bytes, start));
    let mut granted = 0;
    for step in 1..=1000_u64 {
        let nanos = 333_333 * step + 1;
        if limiter.consume_at(1, TokenKind::Bytes, start + Duration::from_nanos(nanos)) {
            granted += 1;
        } else {
            unblock(&mut limiter);
        }
        assert!(granted <= 3 * nanos / 1_000_000, "step {step}");
    }
    assert!(granted > 400);
}

#[test]
fn the_burst_is_spent_first_and_only_once() {
    let (mut limiter, start) = limiter(10, 100, 1000);
    assert!(limiter.consume_at(60, TokenKind::Bytes, start));
    // 40 from the burst, 10 from the bucket.
    assert!(limiter.consume_at(50, TokenKind::Bytes, start));
    assert!(!limiter.consume_at(1, TokenKind::Bytes, start));
    unblock(&mut limiter);
    assert!(limiter.consume_at(10, TokenKind::Bytes, start + ms(60_000)));
    assert!(!limiter.consume_at(1, TokenKind::Bytes, start + ms(60_000)));
}

#[test]
fn a_request_larger_than_the_bucket_passes_and_is_paid_for() {
    let (mut limiter, start) = limiter(1000, 0, 1000);
    // 2500 tokens too many take 2.5 s to earn.
    assert!(limiter.consume_at(3500, TokenKind::Bytes, start));
    assert_eq!(limiter.blocked_until, Some(start + ms(2500)));
    assert!(!limiter.consume_at(1, TokenKind::Bytes, start + ms(2499)));
}

#[test]
fn tokens_given_back_can_be_taken_again_but_never_overfill() {
    let (mut limiter, start) = limiter(10, 0, 1000);
    assert!(limiter.consume_at(10, TokenKind::Bytes, start));
    limiter.replenish(4, TokenKind::Bytes);
    assert!(limiter.consume_at(4, TokenKind::Bytes, start));
    limiter.replenish(u64::MAX, TokenKind::Bytes);
    assert!(limiter.consume_at(10, TokenKind::Bytes, start));
    assert!(!limiter.consume_at(1, TokenKind::Bytes, start));
}

#[test]
fn the_timer_fires_and_unblocks() {
    let config = BucketConfig {
        size: 1,
        one_time_burst: 0,
        refill_time_ms: 1,
    };
    let mut limiter = RateLimiter::new(None, Some(config)).unwrap();
    assert!(!limiter.process_timer(), "nothing has expired yet");
    // Three more than fit: 3 ms.
    assert!(limiter.consume(4, TokenKind::Ops));
    assert!(limiter.is_blocked());
    let mut watched = libc::pollfd {
        fd: limiter.timer().unwrap(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one initialised pollfd, as said.
    assert_eq!(unsafe { libc::poll(&mut watched, 1, 10_000) }, 1);
    assert!(limiter.process_timer());
    assert!(!limiter.is_blocked());
    assert!(!limiter.process_timer(), "the expiry counts once");
}

#[test]
fn limits_can_be_set_changed_and_lifted_while_running() {
    let mut limiter = RateLimiter::default();
    limiter.update(BucketUpdate::Keep, BucketUpdate::Disable).unwrap();
    assert_eq!(limiter.timer(), None);
    let config = BucketConfig {
        size: 1,
        one_time_burst: 0,
        refill_time_ms: 60_000,
    };
    limiter
        .update(BucketUpdate::Keep, BucketUpdate::Replace(config))
        .unwrap();
    let timer = limiter.timer();
    assert!(timer.is_some());
    assert!(limiter.consume(1, TokenKind::Ops));
    assert!(!limiter.consume(1, TokenKind::Ops));
    unblock(&mut limiter);
    limiter
        .update(BucketUpdate::Replace(config), BucketUpdate::Disable)
        .unwrap();
    assert_eq!(limiter.limits(), (Some(config), None));
    assert!(limiter.consume(100, TokenKind::Ops));
    assert_eq!(limiter.timer(), timer);
}

#[test]
fn a_restored_limiter_goes_on_where_it_was() {
    let config = BucketConfig {
        size: 100,
        one_time_burst: 10,
        refill_time_ms: 3_600_000,
    };
    let mut limiter = RateLimiter::new(Some(config), None).unwrap();
    assert!(limiter.consume(70, TokenKind::Bytes));
    let json = serde_json::to_string(&limiter.save()).unwrap();
    let mut restored = RateLimiter::restore(&serde_json::from_str(&json).unwrap()).unwrap();
    assert!(restored.consume(40, TokenKind::Bytes));
    assert!(!restored.consume(1, TokenKind::Bytes));
    let again = RateLimiter::restore(&restored.save()).unwrap();
    assert!(again.is_blocked(), "a wait outlives the save");
    assert!(
        !RateLimiter::restore(&RateLimiter::default().save())
            .unwrap()
            .is_blocked()
    );
}

#[test]
fn impossible_states_are_refused() {
    let config = BucketConfig {
        size: 10,
        one_time_burst: 1,
        refill_time_ms: 1,
    };
    let good = RateLimiter::new(Some(config), None).unwrap().save();
    assert!(RateLimiter::restore(&good).is_ok());
    let bucket = good.bytes.clone().unwrap();
    for bad in [
        RateLimiterState {
            version: 9,
            ..good.clone()
        },
        RateLimiterState {
            bytes: Some(BucketState {
                budget: 11,
                ..bucket.clone()
            }),
            ..good.clone()
        },
        RateLimiterState {
            bytes: Some(BucketState {
                burst: 2,
                ..bucket.clone()
            }),
            ..good.clone()
        },
        RateLimiterState {
            bytes: Some(BucketState::default()),
            ..good.clone()
        },
    ] {
        assert!(RateLimiter::restore(&bad).is_err(), "{bad:?}");
    }
    let ancient = BucketState {
        elapsed_ns: u64::MAX,
        ..bucket
    };
    assert!(
        RateLimiter::restore(&RateLimiterState {
            ops: Some(ancient),
            ..good
        })
        .is_ok()
    );
}

#[test]
fn a_request_takes_from_both_buckets_or_from_neither() {
    let bucket = |size| {
        Some(BucketConfig {
            size,
            one_time_burst: 0,
            refill_time_ms: 3_600_000,
        })
    };
    let mut limiter = RateLimiter::new(bucket(100), bucket(3)).unwrap();
    assert!(limiter.consume_request(60));
    assert!(!limiter.consume_request(60), "too many bytes");
    unblock(&mut limiter);
    assert!(limiter.consume_request(40), "the operation was given back");
    assert!(
        limiter.consume_request(0),
        "no bytes are left, and none are asked for"
    );
    assert!(!limiter.consume_request(0), "three operations");
}

#[test]
fn without_a_working_timer_there_is_no_limit() {
    let (mut limiter, start) = limiter(1000, 0, 1000);
    limiter.timer = None;
    assert!(limiter.consume_at(1000, TokenKind::Bytes, start));
    assert!(
        limiter.consume_at(1, TokenKind::Bytes, start),
        "nobody would ever say that the wait is over"
    );
}
