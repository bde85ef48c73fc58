//! What a request is told that had not gone out when the process began to wind down.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Response;
use pacegate_layers::{
    context::RequestContext,
    error::BoxError,
    pacing::{Gate, QueuePosition},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::ServiceFuture;
use crate::body::Body;

/// The process winds down, and the upstream has not seen the request.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("pacegate is shutting down; the upstream has not seen this request")]
pub(crate) struct Draining;

/// A restart takes about this long; who asks too early is refused once more and asks again.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(5);

/// The outcome of a call, or [`Draining`] as soon as the request waits in `gate` after `draining` was
/// said: it may be waiting then, or come back to wait after a refusal of the upstream's.
///
/// # Cancel safety
///
/// Dropping it drops the call.
pub(crate) struct UnlessQueued {
    call: ServiceFuture<Response<Body>, BoxError>,
    gate: Option<Gate>,
    context: RequestContext,
    draining: Arc<CancellationToken>,
    /// Only for a request that may wait: nearly none does.
    said: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

/// The outcome of `read`, which takes a body in, or [`Draining`] if it is not whole yet.
///
/// # Errors
///
/// [`Draining`], and those of `read`.
pub(crate) async fn unless_begun<T, E: Into<BoxError>>(
    mut read: Pin<&mut impl Future<Output = Result<T, E>>>,
    draining: &CancellationToken,
) -> Result<T, BoxError> {
    // What is there already is taken, and is nearly always whole.
    if let Poll::Ready(outcome) = poll_fn(|cx| Poll::Ready(read.as_mut().poll(cx))).await {
        return outcome.map_err(Into::into);
    }
    tokio::select! {
        biased;
        outcome = read => outcome.map_err(Into::into),
        () = draining.cancelled() => Err(Draining.into()),
    }
}

// === impl UnlessQueued ===

impl UnlessQueued {
    pub(crate) fn new(
        call: ServiceFuture<Response<Body>, BoxError>,
        gate: Option<Gate>,
        context: RequestContext,
        draining: Arc<CancellationToken>,
    ) -> Self {
        Self {
            call,
            gate,
            context,
            draining,
            said: None,
        }
    }

    /// Where the request stands, if it waits.
    pub(crate) fn queue_position(&self) -> Option<QueuePosition> {
        self.gate.as_ref()?.queue_position(&self.context)
    }

    /// Whether it may be this request that waits.
    fn may_wait(&self) -> bool {
        self.gate.as_ref().is_some_and(|gate| gate.waiting() > 0)
    }
}

impl Future for UnlessQueued {
    type Output = Result<Response<Body>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let outcome @ Poll::Ready(_) = this.call.as_mut().poll(cx) {
            return outcome;
        }
        // Nothing but a poll of the call brings the request into the queue.
        if !this.may_wait() {
            return Poll::Pending;
        }
        let draining = &this.draining;
        let said = this
            .said
            .get_or_insert_with(|| Box::pin(CancellationToken::clone(draining).cancelled_owned()));
        // A token that was cancelled stays so, and polling it again is allowed.
        if said.as_mut().poll(cx).is_ready() && this.queue_position().is_some() {
            return Poll::Ready(Err(Draining.into()));
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use pacegate_layers::pacing::Pacing;
    use rand::{SeedableRng, rngs::StdRng};
    use tokio::time::sleep;

    use super::*;
    use crate::edge::rescue_table::full;

    /// A call that is dispatched, works for a second, and then needs a second turn.
    fn refused_once(gate: &Gate, draining: CancellationToken) -> UnlessQueued {
        let context = RequestContext::new();
        let (again, place) = (gate.clone(), context.clone());
        let call = async move {
            drop(again.acquire(Some(place.clone())).await?);
            sleep(Duration::from_secs(1)).await;
            let _permit = again.acquire(Some(place)).await?;
            Ok(Response::new(full("answer")))
        };
        UnlessQueued::new(Box::pin(call), Some(gate.clone()), context, draining.into())
    }

    fn gate() -> Gate {
        let pacing = Pacing::new().min_interval(Duration::from_secs(60));
        Gate::new(pacing, StdRng::seed_from_u64(1))
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_comes_back_to_the_queue_is_told_as_those_in_it_are() {
        let (gate, draining) = (gate(), CancellationToken::new());
        draining.cancel();
        let start = tokio::time::Instant::now();
        let error = refused_once(&gate, draining).await.unwrap_err();
        assert!(error.is::<Draining>(), "{error}");
        assert_eq!(start.elapsed(), Duration::from_secs(1), "it was under way");
        assert_eq!(gate.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_told_before_it_is_said() {
        refused_once(&gate(), CancellationToken::new())
            .await
            .unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_when_it_is_said_is_told_at_once() {
        let (gate, draining) = (gate(), CancellationToken::new());
        let call = refused_once(&gate, draining.clone());
        let start = tokio::time::Instant::now();
        let say = async {
            sleep(Duration::from_secs(5)).await;
            assert_eq!(gate.waiting(), 1);
            draining.cancel();
        };
        let (outcome, ()) = tokio::join!(call, say);
        assert!(outcome.unwrap_err().is::<Draining>());
        assert_eq!(start.elapsed(), Duration::from_secs(5));
        assert_eq!(gate.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_whole_is_taken_and_half_of_one_is_not() {
        let draining = CancellationToken::new();
        draining.cancel();
        let whole = std::future::ready(Ok::<_, BoxError>(1));
        assert_eq!(unless_begun(pin!(whole), &draining).await.unwrap(), 1);
        let half = std::future::pending::<Result<(), BoxError>>();
        let error = unless_begun(pin!(half), &draining).await.unwrap_err();
        assert!(error.is::<Draining>());
    }
}
