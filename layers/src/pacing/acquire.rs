//! Waiting for a turn.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    claims::Claims,
    gate::{Admission, Blocked, Gate, Next, Permit},
    ledger::Claim,
    queue::{Stage, Waiter},
    readiness::{AlwaysReady, Readiness},
};
use crate::{context::RequestContext, error::BoxError};

/// Waits for a turn at a [`Gate`].
///
/// Resolves in the poll that takes the slot, so the task that polls it must dispatch at once. The
/// first ready request in the queue blocks all others, so it must be polled when woken. Give each
/// `Acquire` a task of its own, and never `select!` over a `&mut Acquire`.
///
/// As a future it waits for a request that is always ready to leave; [`poll_with`](Self::poll_with)
/// waits for one that has to prepare.
///
/// # Errors
///
/// [`Refused`](super::Refused): at the first poll if the wait would be too long or the queue is full;
/// later if the gate drains, if the upstream has asked for too long a pause, or if the wait has become
/// too long. The error of a [`Ledger`](super::Ledger) that cannot count.
///
/// # Cancel safety
///
/// Dropping it leaves the queue at once and uses no slot.
#[must_use = "futures do nothing unless polled"]
#[derive(Debug)]
pub struct Acquire {
    gate: Gate,
    context: Option<RequestContext>,
    waiting: Option<Waiting>,
    sleep: Option<Pin<Box<Sleep>>>,
}

/// A request in the queue.
#[derive(Debug)]
struct Waiting {
    waiter: Waiter,
    since: Instant,
    /// A claim that takes time.
    claims: Option<Claims>,
}

impl Acquire {
    pub(super) fn new(gate: Gate, context: Option<RequestContext>) -> Self {
        Self {
            gate,
            context,
            waiting: None,
            sleep: None,
        }
    }

    /// Polls for a turn of a request that is ready when `readiness` says so. `readiness` is polled
    /// shortly before the turn, and in the poll that takes the slot.
    ///
    /// # Errors
    ///
    /// As of the future, and the errors of `readiness`: the request has taken no turn.
    pub fn poll_with<R>(
        &mut self,
        cx: &mut Context<'_>,
        readiness: &mut R,
    ) -> Poll<Result<Permit, BoxError>>
    where
        R: Readiness<Error: Into<BoxError>>,
    {
        if self.waiting.is_none() {
            let admission = self.enter(cx, readiness)?;
            match admission {
                Admission::Dispatched(permit) => {
                    return Poll::Ready(Ok(self.dispatched(permit, Duration::ZERO)));
                }
                Admission::Waiting(waiter, since, claims) => {
                    self.waiting = Some(Waiting {
                        waiter,
                        since,
                        claims,
                    });
                }
            }
        }
        let outcome = ready!(self.poll_turn(cx, readiness));
        let waited = self.leave_queue(outcome.is_ok());
        Poll::Ready(outcome.map(|permit| self.dispatched(permit, waited)))
    }

    fn enter<R>(&mut self, cx: &mut Context<'_>, readiness: &mut R) -> Result<Admission, BoxError>
    where
        R: Readiness<Error: Into<BoxError>>,
    {
        let stage = if self.gate.is_free() {
            match readiness.poll_ready(cx) {
                Poll::Ready(Ok(())) => Stage::Ready,
                Poll::Ready(Err(error)) => {
                    // Its next attempt is a retry.
                    if let Some(context) = &self.context {
                        self.gate.number(context);
                    }
                    return Err(error.into());
                }
                Poll::Pending => Stage::Preparing,
            }
        } else {
            Stage::Queued
        };
        self.gate.enter(self.context.as_ref(), stage)
    }

    /// Waits in the queue.
    fn poll_turn<R>(
        &mut self,
        cx: &mut Context<'_>,
        readiness: &mut R,
    ) -> Poll<Result<Permit, BoxError>>
    where
        R: Readiness<Error: Into<BoxError>>,
    {
        let Some(waiting) = &mut self.waiting else {
            return Poll::Pending;
        };
        loop {
            let again = match self.gate.next(&waiting.waiter, cx.waker())? {
                Next::Wait(until) => {
                    readiness.release();
                    if let Some(claims) = waiting.claims.take() {
                        self.gate.end_claim(&waiting.waiter, claims);
                    }
                    ready!(poll_until(&mut self.sleep, until, cx));
                    continue;
                }
                Next::Prepare(again) => again,
            };
            let mut granted = None;
            if let Some(mut claims) = waiting.claims.take() {
                match claims.poll(cx) {
                    Poll::Pending => {
                        waiting.claims = Some(claims);
                        let deadline = self.gate.deadline(&waiting.waiter);
                        ready!(poll_until(&mut self.sleep, deadline, cx));
                        continue;
                    }
                    Poll::Ready(Ok(Claim::Granted)) => granted = Some(claims),
                    Poll::Ready(Ok(Claim::Wait(until))) => {
                        self.gate.end_claim(&waiting.waiter, claims);
                        ready!(poll_until(&mut self.sleep, until, cx));
                        continue;
                    }
                    Poll::Ready(Err(error)) => {
                        self.gate.end_claim(&waiting.waiter, claims);
                        return Poll::Ready(Err(error));
                    }
                }
            }
            let deadline = self.gate.deadline(&waiting.waiter);
            if readiness.poll_ready(cx).map_err(Into::into)?.is_pending() {
                if let Some(claims) = granted {
                    self.gate.end_claim(&waiting.waiter, claims);
                }
                self.gate.prepares(&waiting.waiter);
                let until = again.map_or(deadline, |again| again.min(deadline));
                ready!(poll_until(&mut self.sleep, until, cx));
                continue;
            }
            let until = match self.gate.dispatch(&waiting.waiter, granted) {
                Ok(permit) => return Poll::Ready(Ok(permit)),
                Err(Blocked::Failed(error)) => return Poll::Ready(Err(error)),
                Err(Blocked::Claiming(claims)) => {
                    waiting.claims = Some(claims);
                    continue;
                }
                Err(Blocked::ByOthers) => deadline,
                Err(Blocked::Until(until)) => until.min(deadline),
            };
            ready!(poll_until(&mut self.sleep, until, cx));
        }
    }

    /// Leaves the queue, unless the dispatch has done so; returns for how long the request waited.
    fn leave_queue(&mut self, is_dispatched: bool) -> Duration {
        let Some(waiting) = self.waiting.take() else {
            return Duration::ZERO;
        };
        if !is_dispatched {
            self.gate.leave(&waiting.waiter, waiting.claims);
        }
        waiting.since.elapsed()
    }

    /// Records the dispatch of a request that has waited for `waited`.
    fn dispatched(&self, permit: Permit, waited: Duration) -> Permit {
        if let Some(context) = &self.context {
            context.add_queued(waited);
            context.set_dispatch_id(permit.dispatch_id());
        }
        permit
    }
}

impl Future for Acquire {
    type Output = Result<Permit, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut().poll_with(cx, &mut AlwaysReady)
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        self.leave_queue(false);
    }
}

fn poll_until(
    sleep: &mut Option<Pin<Box<Sleep>>>,
    instant: Instant,
    cx: &mut Context<'_>,
) -> Poll<()> {
    let sleep = match sleep {
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
