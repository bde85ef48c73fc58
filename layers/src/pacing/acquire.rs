//! Waiting for a turn.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    gate::{Entered, Gate, Held, Permit},
    queue::Spot,
    refused::Refused,
};
use crate::context::Progress;

/// A turn at a [`Gate`], waited for.
///
/// Resolves in the poll in which the slot is taken, so whoever polls it must dispatch at once. The
/// first in the queue holds up all behind it: it must be polled when woken. Give each its own task
/// and never `select!` over a `&mut Acquire`.
///
/// # Errors
///
/// [`Refused`]: at the first poll if the wait would be too long or the queue is full; later only if
/// the upstream has meanwhile asked for a pause that is too long to wait for.
///
/// # Cancel safety
///
/// Dropping it leaves the queue at once and spends nothing.
#[must_use = "futures do nothing unless polled"]
#[derive(Debug)]
pub struct Acquire {
    gate: Gate,
    progress: Option<Progress>,
    /// Where it waits, and since when.
    spot: Option<(Spot, Instant)>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Acquire {
    pub(super) fn new(gate: Gate, progress: Option<Progress>) -> Self {
        Self {
            gate,
            progress,
            spot: None,
            sleep: None,
        }
    }

    /// Notes the dispatch of a request that has waited for so long.
    fn dispatched(&self, permit: Permit, waited: Duration) -> Poll<Result<Permit, Refused>> {
        if let Some(progress) = &self.progress {
            progress.add_queued(waited);
            progress.keep_entry(permit.entry());
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
            let (spot, since) = match &this.spot {
                Some(waiting) => waiting,
                None => match this.gate.enter(this.progress.as_ref())? {
                    Entered::Dispatched(permit) => return this.dispatched(permit, Duration::ZERO),
                    Entered::Waiting(spot, since) => this.spot.insert((spot, since)),
                },
            };
            match this.gate.dispatch(spot, cx.waker()) {
                Ok(permit) => {
                    let waited = since.elapsed();
                    this.spot = None;
                    return this.dispatched(permit, waited);
                }
                Err(Held::ByOthers) => return Poll::Pending,
                Err(Held::Until(instant)) => {
                    if this.poll_sleep(instant, cx).is_pending() {
                        return Poll::Pending;
                    }
                }
                Err(Held::No(refused)) => {
                    if let Some((spot, _)) = this.spot.take() {
                        this.gate.leave(&spot);
                    }
                    return Poll::Ready(Err(refused));
                }
            }
        }
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        if let Some((spot, _)) = self.spot.take() {
            self.gate.leave(&spot);
        }
    }
}
