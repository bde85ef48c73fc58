//! Rates, kept by governor. A cell is only ever taken in the poll that dispatches.

use std::time::Duration;

use governor::{
    Quota, RateLimiter,
    middleware::NoOpMiddleware,
    state::{InMemoryState, NotKeyed},
};
use tokio::time::Instant;

use super::clock::{Reading, TokioClock};

/// At most one dispatch in each interval.
#[derive(Debug)]
pub(super) struct Interval(
    Option<RateLimiter<NotKeyed, InMemoryState, TokioClock, NoOpMiddleware<Reading>>>,
);

impl Interval {
    /// One cell every `least`; zero is no limit.
    pub(super) fn new(least: Duration) -> Self {
        Self(
            Quota::with_period(least)
                .map(|quota| RateLimiter::direct_with_clock(quota, TokioClock)),
        )
    }

    /// Takes a cell, or says when there will be one.
    pub(super) fn take(&self) -> Result<(), Instant> {
        let Some(limiter) = &self.0 else {
            return Ok(());
        };
        limiter
            .check()
            .map_err(|not_until| not_until.earliest_possible().0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_cell_comes_back_after_the_interval_and_not_before() {
        let interval = Interval::new(Duration::from_millis(10));
        let start = Instant::now();
        assert_eq!(interval.take(), Ok(()));
        assert_eq!(interval.take(), Err(start + Duration::from_millis(10)));
        tokio::time::advance(Duration::from_millis(9)).await;
        assert!(interval.take().is_err());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(interval.take(), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn zero_is_no_limit() {
        let interval = Interval::new(Duration::ZERO);
        assert!((0..100).all(|_| interval.take().is_ok()));
    }
}
