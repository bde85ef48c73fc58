//! Deadlines that nearly nobody lives to see.
//!
//! Arming a timer for each request and disarming it a millisecond later costs more than all else that
//! is done about its deadline. A timer that was set for an earlier request of the same limit
//! goes off before this one's time is up, and is moved then, if anybody still waits.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

/// More timers than that are not kept: each holds on to the task that it would wake.
const SPARE: usize = 64;

/// Timers of one limit, between their uses.
pub(super) struct Alarms {
    limit: Duration,
    spare: Mutex<Vec<Pin<Box<Sleep>>>>,
}

pin_project! {
    /// Resolves to None once the limit has passed. Not an async fn, which would keep room for
    /// `future` twice.
    #[must_use = "futures do nothing unless polled"]
    pub(super) struct Within<'a, F> {
        #[pin]
        future: F,
        alarm: Alarm<'a>,
    }
}

/// One deadline: the limit, counted from the first poll.
struct Alarm<'a> {
    alarms: &'a Alarms,
    set: Option<(Instant, Pin<Box<Sleep>>)>,
}

// === impl Alarms ===

impl Alarms {
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            limit,
            spare: Mutex::default(),
        }
    }

    /// The outcome of `future` if it comes within the limit.
    pub(super) fn within<F: Future>(&self, future: F) -> Within<'_, F> {
        let alarm = Alarm {
            alarms: self,
            set: None,
        };
        Within { future, alarm }
    }

    /// One that goes off at `deadline` or before.
    fn take(&self, deadline: Instant) -> Pin<Box<Sleep>> {
        let spare = self.lock(Vec::pop);
        spare.unwrap_or_else(|| Box::pin(sleep_until(deadline)))
    }

    fn keep(&self, sleep: Pin<Box<Sleep>>) {
        self.lock(|spare| {
            if spare.len() < SPARE {
                spare.push(sleep);
            }
        });
    }

    fn lock<T>(&self, then: impl FnOnce(&mut Vec<Pin<Box<Sleep>>>) -> T) -> T {
        then(&mut self.spare.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Alarms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Alarms").field(&self.limit).finish()
    }
}

// === impl Within ===

impl<F: Future> Future for Within<'_, F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match this.future.poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => this.alarm.poll_passed(cx).map(|()| None),
        }
    }
}

// === impl Alarm ===

impl Alarm<'_> {
    /// Ready once the limit has passed.
    fn poll_passed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((deadline, sleep)) = &mut self.set else {
            let Some(deadline) = Instant::now().checked_add(self.alarms.limit) else {
                // Longer than there is time for.
                return Poll::Pending;
            };
            self.set = Some((deadline, self.alarms.take(deadline)));
            return self.poll_passed(cx);
        };
        while sleep.deadline() < *deadline {
            ready!(sleep.as_mut().poll(cx));
            sleep.as_mut().reset(*deadline);
        }
        sleep.as_mut().poll(cx)
    }
}

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if let Some((_, sleep)) = self.set.take() {
            self.alarms.keep(sleep);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::{advance, sleep, timeout};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(240);

    async fn passed(alarms: &Alarms) {
        assert_eq!(alarms.within(pending::<()>()).await, None);
    }

    /// Waits for a while and gives up, which leaves a timer behind.
    async fn give_up(alarms: &Alarms, after: Duration) {
        timeout(after, passed(alarms)).await.unwrap_err();
        assert_eq!(alarms.lock(|spare| spare.len()), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_there_already_arms_no_timer() {
        let alarms = Alarms::new(LIMIT);
        assert_eq!(alarms.within(ready(1)).await, Some(1));
        assert_eq!(alarms.lock(|spare| spare.len()), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn goes_off_at_the_limit_whatever_its_timer_was_set_for_before() {
        let alarms = Alarms::new(LIMIT);
        for age in [0, 1, 239, 240, 1000] {
            give_up(&alarms, Duration::from_secs(1)).await;
            sleep(Duration::from_secs(age)).await;
            let start = Instant::now();
            passed(&alarms).await;
            assert_eq!(start.elapsed(), LIMIT, "{age}s later");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_is_used_again_wakes_who_waits_now() {
        let alarms = Alarms::new(LIMIT);
        give_up(&alarms, Duration::from_secs(1)).await;
        let mut waiting = tokio_test::task::spawn(passed(&alarms));
        tokio_test::assert_pending!(waiting.poll());
        assert_eq!(alarms.lock(|spare| spare.len()), 0, "it was not used");
        // Goes off for the first one, and is moved.
        advance(LIMIT - Duration::from_secs(1)).await;
        tokio::task::yield_now().await;
        assert!(waiting.is_woken());
        tokio_test::assert_pending!(waiting.poll());
        advance(Duration::from_secs(1)).await;
        tokio::task::yield_now().await;
        assert!(waiting.is_woken());
        tokio_test::assert_ready!(waiting.poll());
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_beyond_all_time_never_passes() {
        let alarms = Alarms::new(Duration::MAX);
        let year = Duration::from_secs(365 * 24 * 3600);
        timeout(year, passed(&alarms)).await.unwrap_err();
    }
}
