//! Limits an account's retries.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

/// Limits retries to a fraction of all attempts, over all requests of an account; clones share the
/// count and the fraction.
///
/// Attempts count for ten minutes. Three retries are always allowed. Without a budget, an upstream
/// that refuses everything would see every request three times.
#[derive(Clone, Debug)]
pub struct RetryBudget(Arc<Mutex<BudgetState>>);

#[derive(Debug)]
struct BudgetState {
    fraction: f64,
    minutes: VecDeque<Minute>,
}

#[derive(Debug)]
struct Minute {
    began: Instant,
    attempts: u32,
    retries: u32,
}

/// At one request a second, a budget per second would never limit a retry.
const WINDOW: Duration = Duration::from_secs(10 * 60);

const MINUTE: Duration = Duration::from_secs(60);

/// Retries that are always allowed, so that a quiet account can retry, too.
const ALWAYS_ALLOWED: u32 = 3;

impl RetryBudget {
    /// Allows retries to be `fraction` of all attempts, 0.0 to 1.0.
    pub fn new(fraction: f64) -> Self {
        Self(Arc::new(Mutex::new(BudgetState {
            fraction,
            minutes: VecDeque::new(),
        })))
    }

    /// Replaces the fraction; what has been counted stays.
    pub fn set_fraction(&self, fraction: f64) {
        self.0.lock().fraction = fraction;
    }

    /// Counts the first attempt of a request, at `now`.
    pub(super) fn count_first_attempt(&self, now: Instant) {
        self.with_current(now, |_, minutes| {
            if let Some(minute) = minutes.back_mut() {
                minute.attempts += 1;
            }
        });
    }

    /// Takes a retry, which counts as an attempt as well, if one is left.
    pub(super) fn take_retry(&self) -> bool {
        self.with_current(Instant::now(), |fraction, minutes| {
            let attempts: u32 = minutes.iter().map(|minute| minute.attempts).sum();
            let retries: u32 = minutes.iter().map(|minute| minute.retries).sum();
            let wanted = retries + 1;
            let allowed =
                wanted <= ALWAYS_ALLOWED || f64::from(wanted) <= fraction * f64::from(attempts + 1);
            if let Some(minute) = minutes.back_mut().filter(|_| allowed) {
                minute.retries += 1;
                minute.attempts += 1;
            }
            allowed
        })
    }

    fn with_current<T>(
        &self,
        now: Instant,
        read: impl FnOnce(f64, &mut VecDeque<Minute>) -> T,
    ) -> T {
        let mut state = self.0.lock();
        let BudgetState { fraction, minutes } = &mut *state;
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
                attempts: 0,
                retries: 0,
            });
        }
        read(*fraction, minutes)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn three_retries_are_always_allowed_then_a_fraction_of_all_attempts() {
        let budget = RetryBudget::new(0.2);
        budget.count_first_attempt(Instant::now());
        assert!((0..3).all(|_| budget.take_retry()));
        assert!(!budget.take_retry());
        for _ in 0..16 {
            budget.count_first_attempt(Instant::now());
        }
        assert!(budget.take_retry(), "the fourth of 21 attempts");
        assert!(!budget.take_retry());
    }

    #[tokio::test(start_paused = true)]
    async fn retries_older_than_ten_minutes_do_not_count() {
        let budget = RetryBudget::new(0.2);
        assert!((0..3).all(|_| budget.take_retry()));
        advance(WINDOW - Duration::from_secs(1)).await;
        assert!(!budget.take_retry());
        advance(Duration::from_secs(1)).await;
        assert!(budget.take_retry());
    }

    #[tokio::test(start_paused = true)]
    async fn a_fraction_of_one_never_limits() {
        let budget = RetryBudget::new(1.0);
        assert!((0..100).all(|_| budget.take_retry()));
    }
}
