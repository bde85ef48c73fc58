//! Limits an account's retries.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

/// Limits retries to a share of all tries, over all requests of an account; clones share the count.
///
/// Without it, an upstream that refuses everything would see every request three times.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    share: f64,
    minutes: Arc<Mutex<VecDeque<Minute>>>,
}

#[derive(Debug)]
struct Minute {
    began: Instant,
    tries: u32,
    retries: u32,
}

/// At one request a second, a budget per second would never limit a retry.
const WINDOW: Duration = Duration::from_secs(10 * 60);

const MINUTE: Duration = Duration::from_secs(60);

/// Retries that are always allowed, so that a quiet account can retry, too.
const ALWAYS: u32 = 3;

impl Budget {
    pub(super) fn new(share: f64) -> Self {
        Self {
            share,
            minutes: Arc::default(),
        }
    }

    /// Counts the first try of a request, at `now`.
    pub(super) fn count_try(&self, now: Instant) {
        self.with_current(now, |minutes| {
            if let Some(minute) = minutes.back_mut() {
                minute.tries += 1;
            }
        });
    }

    /// Takes a retry, which counts as a try as well, if one is left.
    pub(super) fn take_retry(&self) -> bool {
        self.with_current(Instant::now(), |minutes| {
            let tries: u32 = minutes.iter().map(|minute| minute.tries).sum();
            let retries: u32 = minutes.iter().map(|minute| minute.retries).sum();
            let wanted = retries + 1;
            let allowed =
                wanted <= ALWAYS || f64::from(wanted) <= self.share * f64::from(tries + 1);
            if let Some(minute) = minutes.back_mut().filter(|_| allowed) {
                minute.retries += 1;
                minute.tries += 1;
            }
            allowed
        })
    }

    fn with_current<T>(&self, now: Instant, read: impl FnOnce(&mut VecDeque<Minute>) -> T) -> T {
        let mut minutes = self.minutes.lock();
        while minutes
            .front()
            .is_some_and(|minute| minute.began + WINDOW <= now)
        {
            minutes.pop_front();
        }
        if minutes
            .back()
            .is_none_or(|minute| minute.began + MINUTE <= now)
        {
            minutes.push_back(Minute {
                began: now,
                tries: 0,
                retries: 0,
            });
        }
        read(&mut minutes)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn three_are_always_allowed_and_then_a_share_of_all_tries() {
        let budget = Budget::new(0.2);
        budget.count_try(Instant::now());
        assert!((0..3).all(|_| budget.take_retry()));
        assert!(!budget.take_retry());
        for _ in 0..16 {
            budget.count_try(Instant::now());
        }
        assert!(budget.take_retry(), "the fourth of 21 tries");
        assert!(!budget.take_retry());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_spent_ten_minutes_ago_counts_no_more() {
        let budget = Budget::new(0.2);
        assert!((0..3).all(|_| budget.take_retry()));
        advance(WINDOW - Duration::from_secs(1)).await;
        assert!(!budget.take_retry());
        advance(Duration::from_secs(1)).await;
        assert!(budget.take_retry());
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_of_one_never_binds() {
        let budget = Budget::new(1.0);
        assert!((0..100).all(|_| budget.take_retry()));
    }
}
