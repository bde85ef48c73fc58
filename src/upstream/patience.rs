//! How long an answer is waited for.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

/// Measures one wait after the other with one timer, which is moved only where it would go off too
/// late, or has gone off too early: moving it for each wait would cost more than what was waited
/// for.
pub(super) struct Patience {
    sleep: Pin<Box<Sleep>>,
    since: Option<Instant>,
}

// === impl Patience ===

impl Patience {
    /// `usual` is how long a wait may last, as a rule.
    pub(super) fn new(usual: Duration) -> Self {
        Self {
            sleep: Box::pin(sleep(usual)),
            since: None,
        }
    }

    /// What was waited for has come.
    pub(super) fn rewarded(&mut self) {
        self.since = None;
    }

    /// Ready once the wait has taken longer than `limit`. It begins with the first call, so that a
    /// slow reader is not taken for a silent upstream.
    pub(super) fn poll_end(&mut self, limit: Duration, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = *self.since.get_or_insert_with(Instant::now) + limit;
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

    async fn end(patience: &mut Patience, limit: Duration) -> Duration {
        let start = Instant::now();
        poll_fn(|cx| patience.poll_end(limit, cx)).await;
        start.elapsed()
    }

    async fn is_kept(patience: &mut Patience, limit: Duration, wait: Duration) -> bool {
        timeout(wait, end(patience, limit)).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn each_wait_has_its_whole_limit_whatever_the_timer_was_set_to() {
        let mut patience = Patience::new(10 * SECOND);
        assert!(is_kept(&mut patience, 10 * SECOND, 9 * SECOND).await);
        patience.rewarded();
        assert_eq!(end(&mut patience, 10 * SECOND).await, 10 * SECOND);
        patience.rewarded();
        assert_eq!(end(&mut patience, 3 * SECOND).await, 3 * SECOND);
        patience.rewarded();
        assert_eq!(end(&mut patience, 30 * SECOND).await, 30 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_goes_on_until_it_is_rewarded_and_no_time_between_waits_counts() {
        let mut patience = Patience::new(10 * SECOND);
        assert!(is_kept(&mut patience, 10 * SECOND, 6 * SECOND).await);
        assert_eq!(end(&mut patience, 10 * SECOND).await, 4 * SECOND);
        patience.rewarded();
        tokio::time::sleep(60 * SECOND).await;
        assert_eq!(end(&mut patience, 5 * SECOND).await, 5 * SECOND);
    }
}
