//! Waiting for a turn.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    gate::{Admission, Blocked, Gate, Permit},
    queue::Waiter,
    refused::Refused,
};
use crate::context::RequestContext;

/// Waits for a turn at a [`Gate`].
///
/// Resolves in the poll that takes the slot, so the task that polls it must dispatch at once. The
/// first request in the queue blocks all others, so it must be polled when woken. Give each
/// `Acquire` a task of its own, and never `select!` over a `&mut Acquire`.
///
/// # Errors
///
/// [`Refused`]: at the first poll if the wait would be too long or the queue is full; later if the
/// gate drains, or if the upstream has asked for too long a pause.
///
/// # Cancel safety
///
/// Dropping it leaves the queue at once and uses no slot.
#[must_use = "futures do nothing unless polled"]
#[derive(Debug)]
pub struct Acquire {
    gate: Gate,
    context: Option<RequestContext>,
    /// The request in the queue, and since when it waits.
    waiter: Option<(Waiter, Instant)>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Acquire {
    pub(super) fn new(gate: Gate, context: Option<RequestContext>) -> Self {
        Self {
            gate,
            context,
            waiter: None,
            sleep: None,
        }
    }

    /// Records the dispatch of a request that has waited for `waited`.
    fn dispatched(&self, permit: Permit, waited: Duration) -> Poll<Result<Permit, Refused>> {
        if let Some(context) = &self.context {
            context.add_queued(waited);
            context.set_dispatch_id(permit.dispatch_id());
        }
        Poll::Ready(Ok(permit))
    }

    fn poll_sleep(&mut self, instant: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = match &mut self.sleep {
            Some(sleep) => {
                if sleep.deadline() != instant {
                    sleep.as_mut().reset(instant);
                }
                sleep
            }
            none => none.insert(Box::pin(sleep_until(instant))),
        };
        sleep.as_mut().poll(cx)
    }
}

impl Future for Acquire {
    type Output = Result<Permit, Refused>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        loop {
            let (waiter, since) = match &this.waiter {
                Some(waiting) => waiting,
                None => match this.gate.enter(this.context.as_ref())? {
                    Admission::Dispatched(permit) => {
                        return this.dispatched(permit, Duration::ZERO);
                    }
                    Admission::Waiting(waiter, since) => this.waiter.insert((waiter, since)),
                },
            };
            match this.gate.dispatch(waiter, cx.waker()) {
                Ok(permit) => {
                    let waited = since.elapsed();
                    this.waiter = None;
                    return this.dispatched(permit, waited);
                }
                Err(Blocked::ByOthers) => return Poll::Pending,
                Err(Blocked::Until(instant)) => {
                    if this.poll_sleep(instant, cx).is_pending() {
                        return Poll::Pending;
                    }
                }
                Err(Blocked::Refused(refused)) => {
                    if let Some((waiter, _)) = this.waiter.take() {
                        this.gate.leave(&waiter);
                    }
                    return Poll::Ready(Err(refused));
                }
            }
        }
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        if let Some((waiter, _)) = self.waiter.take() {
            self.gate.leave(&waiter);
        }
    }
}
