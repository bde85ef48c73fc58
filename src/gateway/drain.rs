//! What a request is told that had not gone out when the process began to wind down.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::Duration,
};

use http::Response;
use pacegate_layers::{error::BoxError, jitter_throttle::Gate, progress::Progress};
use tokio_util::sync::CancellationToken;

use crate::body::Body;

/// The process winds down, and the upstream has not seen the request.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("pacegate is shutting down; the upstream has not seen this request")]
pub(super) struct Draining;

/// A restart takes about this long; who asks too early is refused once more and asks again.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(5);

/// The outcome of `call`, or [`Draining`] as soon as the request waits in `gate` after `draining`
/// was said: it may be waiting then, or come back to wait after a refusal of the upstream's.
///
/// # Cancel safety
///
/// Dropping the future drops `call`.
pub(super) async fn unless_queued(
    call: impl Future<Output = Result<Response<Body>, BoxError>>,
    gate: Option<Gate>,
    progress: Progress,
    draining: CancellationToken,
) -> Result<Response<Body>, BoxError> {
    let mut call = pin!(call);
    let mut said = pin!(draining.cancelled());
    poll_fn(|cx| {
        if let outcome @ Poll::Ready(_) = call.as_mut().poll(cx) {
            return outcome;
        }
        let waits = || gate.as_ref()?.outlook(&progress);
        // A token that was cancelled stays so, and polling it again is allowed.
        if said.as_mut().poll(cx).is_ready() && waits().is_some() {
            return Poll::Ready(Err(Draining.into()));
        }
        Poll::Pending
    })
    .await
}

/// The outcome of `read`, which takes a body in, or [`Draining`] if it is not whole yet.
///
/// # Errors
///
/// [`Draining`], and those of `read`.
pub(super) async fn unless_begun<T, E: Into<BoxError>>(
    read: impl Future<Output = Result<T, E>>,
    draining: &CancellationToken,
) -> Result<T, BoxError> {
    tokio::select! {
        // What is there already is taken.
        biased;
        outcome = read => outcome.map_err(Into::into),
        () = draining.cancelled() => Err(Draining.into()),
    }
}

#[cfg(test)]
mod tests {
    use pacegate_layers::jitter_throttle::Pacing;
    use rand::{SeedableRng, rngs::StdRng};
    use tokio::time::sleep;

    use super::*;
    use crate::gateway::answer::full;

    /// A call that is dispatched, works for a second, and then needs a second turn.
    fn refused_once(
        gate: &Gate,
        progress: &Progress,
    ) -> impl Future<Output = Result<Response<Body>, BoxError>> + use<> {
        let (gate, progress) = (gate.clone(), progress.clone());
        async move {
            drop(gate.acquire(Some(progress.clone()), None).await?);
            sleep(Duration::from_secs(1)).await;
            let _permit = gate.acquire(Some(progress), None).await?;
            Ok(Response::new(full("answer")))
        }
    }

    fn gate() -> Gate {
        let pacing = Pacing::new().min_interval(Duration::from_secs(60));
        Gate::new(pacing, StdRng::seed_from_u64(1))
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_comes_back_to_the_queue_is_told_as_those_in_it_are() {
        let (gate, progress, draining) = (gate(), Progress::new(), CancellationToken::new());
        draining.cancel();
        let call = refused_once(&gate, &progress);
        let start = tokio::time::Instant::now();
        let error = unless_queued(call, Some(gate.clone()), progress, draining)
            .await
            .unwrap_err();
        assert!(error.is::<Draining>(), "{error}");
        assert_eq!(start.elapsed(), Duration::from_secs(1), "it was under way");
        assert_eq!(gate.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_told_before_it_is_said() {
        let (gate, progress) = (gate(), Progress::new());
        let call = refused_once(&gate, &progress);
        unless_queued(call, Some(gate), progress, CancellationToken::new())
            .await
            .unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_whole_is_taken_and_half_of_one_is_not() {
        let draining = CancellationToken::new();
        draining.cancel();
        let whole = std::future::ready(Ok::<_, BoxError>(1));
        assert_eq!(unless_begun(whole, &draining).await.unwrap(), 1);
        let half = std::future::pending::<Result<(), BoxError>>();
        let error = unless_begun(half, &draining).await.unwrap_err();
        assert!(error.is::<Draining>());
    }
}
