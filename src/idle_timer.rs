//! A timer for consecutive waits.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

/// Limits one wait after the other with one timer. Only time spent waiting counts, so a client that
/// reads slowly does not make the upstream look silent.
///
/// Moving a timer costs time, and a stream of small events would move it for each of them. So a new
/// wait keeps the old deadline unless that is too late; a timer that fires early is then set to the
/// right one.
pub(crate) struct IdleTimer {
    sleep: Pin<Box<Sleep>>,
    since: Option<Instant>,
}

// === impl IdleTimer ===

impl IdleTimer {
    /// `usual` is the usual limit of a wait.
    pub(crate) fn new(usual: Duration) -> Self {
        Self {
            sleep: Box::pin(sleep(usual)),
            since: None,
        }
    }

    /// The wait is over.
    pub(crate) fn reset(&mut self) {
        self.since = None;
    }

    /// Ready once the wait has taken longer than `limit`. It begins with the first call after
    /// [`reset`](Self::reset).
    pub(crate) fn poll_elapsed(&mut self, limit: Duration, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let Some(deadline) = since.checked_add(limit) else {
            // The limit is beyond the range of the clock.
            return Poll::Pending;
        };
        if self.sleep.deadline() > deadline {
            self.sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::timeout;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    async fn time_to_elapse(timer: &mut IdleTimer, limit: Duration) -> Duration {
        let start = Instant::now();
        poll_fn(|cx| timer.poll_elapsed(limit, cx)).await;
        start.elapsed()
    }

    async fn is_pending_after(timer: &mut IdleTimer, limit: Duration, wait: Duration) -> bool {
        timeout(wait, time_to_elapse(timer, limit)).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn each_wait_has_its_whole_limit() {
        let mut timer = IdleTimer::new(10 * SECOND);
        assert!(is_pending_after(&mut timer, 10 * SECOND, 9 * SECOND).await);
        timer.reset();
        assert_eq!(time_to_elapse(&mut timer, 10 * SECOND).await, 10 * SECOND);
        timer.reset();
        assert_eq!(time_to_elapse(&mut timer, 3 * SECOND).await, 3 * SECOND);
        timer.reset();
        assert_eq!(time_to_elapse(&mut timer, 30 * SECOND).await, 30 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_lasts_until_reset_and_time_between_waits_does_not_count() {
        let mut timer = IdleTimer::new(10 * SECOND);
        assert!(is_pending_after(&mut timer, 10 * SECOND, 6 * SECOND).await);
        assert_eq!(time_to_elapse(&mut timer, 10 * SECOND).await, 4 * SECOND);
        timer.reset();
        tokio::time::sleep(60 * SECOND).await;
        assert_eq!(time_to_elapse(&mut timer, 5 * SECOND).await, 5 * SECOND);
    }
}
