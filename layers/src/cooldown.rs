//! The instant before which an account rests, known to everyone who sends for it.
//!
//! [`RetryOn429`](crate::RetryOn429Layer) sets it when the upstream says "slow down";
//! [`JitterThrottle`](crate::JitterThrottleLayer)'s gate lets nobody through before it, and tells
//! through it how much is waiting, so that an answer of 429 can carry an honest `Retry-After`.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// A "not before" that only moves forward; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Cooldown(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    until: Option<Instant>,
    backlog: Duration,
}

impl Cooldown {
    /// An account that is not resting.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets nobody through before `instant`. An earlier instant than the one set changes nothing.
    pub fn close_until(&self, instant: Instant) {
        let mut state = self.lock();
        state.until = state.until.max(Some(instant));
    }

    /// The instant it rests until, if one was ever set; it may be in the past.
    pub fn until(&self) -> Option<Instant> {
        self.lock().until
    }

    /// How long a request that comes now would wait: the rest of the rest, and everyone ahead.
    pub fn estimate(&self) -> Duration {
        let state = self.lock();
        let rest = state
            .until
            .map_or(Duration::ZERO, |until| until.duration_since(Instant::now()));
        rest + state.backlog
    }

    /// Notes how long those who wait now will take, once the rest is over.
    pub fn set_backlog(&self, backlog: Duration) {
        self.lock().backlog = backlog;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_moves_forward() {
        let cooldown = Cooldown::new();
        let start = Instant::now();
        cooldown.close_until(start + Duration::from_secs(9));
        cooldown.clone().close_until(start + Duration::from_secs(3));
        assert_eq!(cooldown.until(), Some(start + Duration::from_secs(9)));

        cooldown.set_backlog(Duration::from_secs(2));
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(cooldown.estimate(), Duration::from_secs(7));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(cooldown.estimate(), Duration::from_secs(2));
    }
}
