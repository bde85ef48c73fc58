//! Waiting for a turn.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    gate::{Entered, Gate, Held, Permit},
    queue::Spot,
    refused::Refused,
};
use crate::progress::Progress;

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
    arrived: Option<Instant>,
    spot: Option<Spot>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Acquire {
    pub(super) fn new(gate: Gate, progress: Option<Progress>) -> Self {
        Self {
            gate,
            progress,
            arrived: None,
            spot: None,
            sleep: None,
        }
    }

    fn dispatched(&self, permit: Permit, arrived: Instant) -> Poll<Result<Permit, Refused>> {
        if let Some(progress) = &self.progress {
            progress.add_queued(arrived.elapsed());
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
        let arrived = *this.arrived.get_or_insert_with(Instant::now);
        loop {
            let spot = match &this.spot {
                Some(spot) => spot,
                None => match this.gate.enter(this.progress.as_ref())? {
                    Entered::Dispatched(permit) => return this.dispatched(permit, arrived),
                    Entered::Waiting(spot) => this.spot.insert(spot),
                },
            };
            match this.gate.dispatch(spot, cx.waker()) {
                Ok(permit) => {
                    this.spot = None;
                    return this.dispatched(permit, arrived);
                }
                Err(Held::ByOthers) => return Poll::Pending,
                Err(Held::Until(instant)) => {
                    if this.poll_sleep(instant, cx).is_pending() {
                        return Poll::Pending;
                    }
                }
                Err(Held::No(refused)) => {
                    if let Some(spot) = this.spot.take() {
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
        if let Some(spot) = self.spot.take() {
            self.gate.leave(&spot);
        }
    }
}
