//! A bell between a connection's task and what the task polls.
//!
//! hyper wakes its own task for what it is about to see anyway, twice for nearly every request, and
//! to a task all wake-ups are one: each would cost a turn of the scheduler and a poll of everything,
//! the answer in the making with all its layers and whatever may end the connection. So each of
//! these has a bell of its own, is left alone while nobody rang that, and what rings while it is
//! being polled costs no turn.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use atomic_waker::AtomicWaker;
use pin_project_lite::pin_project;

/// A waker that remembers whether it was used. Clones are the same one.
#[derive(Clone, Debug)]
pub(super) struct Bell {
    wire: Arc<Wire>,
    /// Of `wire`, made once.
    waker: Waker,
}

#[derive(Debug)]
struct Wire {
    state: AtomicU8,
    /// Whoever is to come when it rings.
    behind: AtomicWaker,
}

/// Nobody rang since the last poll.
const QUIET: u8 = 0;
/// What the bell is for is being polled.
const ATTENDED: u8 = 1;
/// It has to be polled.
const RUNG: u8 = 2;

pin_project! {
    /// A future that is polled when it was woken, however often its task is.
    #[derive(Debug)]
    pub(super) struct WhenRung<F> {
        #[pin]
        inner: F,
        bell: Bell,
    }
}

// === impl Bell ===

impl Bell {
    pub(super) fn new() -> Self {
        let wire = Arc::new(Wire {
            state: AtomicU8::new(RUNG),
            behind: AtomicWaker::new(),
        });
        Self {
            waker: Waker::from(Arc::clone(&wire)),
            wire,
        }
    }

    /// What `poll` gives, which is called once more if it rang meanwhile: what a poll has brought
    /// about itself is better seen to at once. Whoever rings then as well may ring for ever, and waits
    /// for the others' turns.
    pub(super) fn poll_twice<T>(
        &self,
        cx: &mut Context<'_>,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        for _ in 0..2 {
            if let Some(outcome) = self.attend(cx, &mut poll) {
                return outcome;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// What `poll` gives; `None` if it is pending and rang meanwhile.
    fn attend<T>(
        &self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Option<Poll<T>> {
        self.wire.behind.register(cx.waker());
        self.wire.state.swap(ATTENDED, Ordering::AcqRel);
        let outcome = poll(&mut Context::from_waker(&self.waker));
        let heard_nothing =
            self.wire
                .state
                .compare_exchange(ATTENDED, QUIET, Ordering::AcqRel, Ordering::Acquire);
        (outcome.is_ready() || heard_nothing.is_ok()).then_some(outcome)
    }
}

// === impl Wire ===

impl Wake for Wire {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(RUNG, Ordering::AcqRel) == QUIET {
            self.behind.wake();
        }
    }
}

// === impl WhenRung ===

impl<F> WhenRung<F> {
    /// `bell` may have been another future's before, if that is not polled any more.
    pub(super) fn new(inner: F, bell: Bell) -> Self {
        // What was never polled has to be.
        bell.wire.state.store(RUNG, Ordering::Release);
        Self { inner, bell }
    }
}

impl<F: Future> Future for WhenRung<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let wire = &this.bell.wire;
        if wire.state.load(Ordering::Acquire) == QUIET {
            wire.behind.register(cx.waker());
            // It may have rung for the waker of before.
            if wire.state.load(Ordering::Acquire) == QUIET {
                return Poll::Pending;
            }
        }
        let outcome = this.bell.attend(cx, |cx| this.inner.poll(cx));
        outcome.unwrap_or_else(|| {
            cx.waker().wake_by_ref();
            Poll::Pending
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, future::poll_fn};

    use tokio::sync::oneshot;
    use tokio_test::{assert_pending, assert_ready, task::spawn};

    use super::*;

    #[test]
    fn a_future_is_polled_first_and_when_it_was_woken_and_not_otherwise() {
        let (send, mut receive) = oneshot::channel();
        let polls = Cell::new(0);
        let inner = poll_fn(|cx| {
            polls.set(polls.get() + 1);
            Pin::new(&mut receive).poll(cx)
        });
        let mut task = spawn(WhenRung::new(inner, Bell::new()));
        assert_pending!(task.poll());
        assert_pending!(task.poll());
        assert_eq!(polls.get(), 1);
        assert!(!task.is_woken());
        send.send(7).unwrap();
        assert!(task.is_woken());
        assert_eq!(assert_ready!(task.poll()), Ok(7));
        assert_eq!(polls.get(), 2);
    }

    #[test]
    fn whoever_polls_a_quiet_future_last_is_woken() {
        let (send, receive) = oneshot::channel::<()>();
        let mut future = Box::pin(WhenRung::new(receive, Bell::new()));
        let mut first = spawn(());
        assert_pending!(first.enter(|cx, _| future.as_mut().poll(cx)));
        let mut second = spawn(());
        assert_pending!(second.enter(|cx, _| future.as_mut().poll(cx)));
        drop(send);
        assert!(second.is_woken() && !first.is_woken());
    }

    #[test]
    fn a_future_that_wakes_itself_is_polled_again_in_its_tasks_next_turn() {
        let polls = Cell::new(0);
        let inner = poll_fn(|cx| {
            polls.set(polls.get() + 1);
            cx.waker().wake_by_ref();
            if polls.get() < 3 {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        });
        let mut task = spawn(WhenRung::new(inner, Bell::new()));
        for _ in 0..2 {
            assert_pending!(task.poll());
            assert!(task.is_woken());
        }
        assert_ready!(task.poll());
    }

    #[test]
    fn the_bell_of_a_future_that_has_ended_is_the_next_ones() {
        let bell = Bell::new();
        for number in 0..3 {
            let mut next = spawn(WhenRung::new(async { number }, bell.clone()));
            assert_eq!(assert_ready!(next.poll()), number);
        }
    }

    #[test]
    fn what_rings_while_it_is_polled_costs_no_turn_and_what_does_not_stop_costs_one() {
        let bell = Bell::new();
        let mut task = spawn(());
        for (rings, polled, turn) in [(0, 1, false), (1, 2, false), (2, 2, true)] {
            let mut polls = 0;
            let pending = task.enter(|cx, _| {
                bell.poll_twice(cx, |cx| {
                    polls += 1;
                    if polls <= rings {
                        cx.waker().wake_by_ref();
                    }
                    Poll::<()>::Pending
                })
            });
            assert_pending!(pending);
            assert_eq!((polls, task.is_woken()), (polled, turn), "{rings} rings");
        }
    }
}
