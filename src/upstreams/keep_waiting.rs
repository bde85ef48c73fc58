//! Sends SSE comments while a request waits, so that the client does not time out.
//!
//! For up to `max-hold` the client gets nothing. After that a streaming request gets response
//! headers, and comments with its queue position until the upstream responds; any other request
//! that is still queued gets 429 with `Retry-After`. Early headers give up the status and the
//! `Retry-After` of a later refusal, so they are not sent before they are needed.
//!
//! It reads the request's [`RequestContext`]. Without one a request counts as neither streaming nor
//! queued.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use pacegate_layers::{
    context::RequestContext,
    error::BoxError,
    pacing::{Gate, QueuePosition},
    retry_on_429::sse,
};
use pin_project_lite::pin_project;
use tokio::time::{Interval, MissedTickBehavior, Sleep, interval, sleep};
use tower::{Layer, Service};

use crate::{
    api::chat_completions::{error_event, keep_alive},
    body::Body,
};

/// Applies [`KeepWaiting`].
#[derive(Clone, Debug)]
pub(super) struct KeepWaitingLayer {
    pub(super) max_hold: Duration,
    /// The gate where the request may wait for its turn.
    pub(super) gate: Option<Gate>,
}

/// Responds to a request that has waited for `max-hold`.
#[derive(Clone, Debug)]
pub(super) struct KeepWaiting<S> {
    inner: S,
    max_hold: Duration,
    gate: Option<Gate>,
}

pin_project! {
    /// # Cancel safety
    ///
    /// Dropping the future, or the body of its response, drops the call.
    pub(super) struct ResponseFuture<F> {
        // None once the body has it.
        waiting: Option<Waiting<F>>,
        #[pin]
        max_hold: Sleep,
        expects_stream: bool,
        // Dispatched after `max-hold`: the upstream is working, and its own time-outs apply.
        dispatched: bool,
    }
}

/// A call, and what its queue position depends on.
struct Waiting<F> {
    call: Pin<Box<F>>,
    gate: Option<Gate>,
    context: Option<RequestContext>,
}

/// The body of a stream that began before the upstream's response.
struct WaitingBody<F>(WaitState<F>);

enum WaitState<F> {
    /// Waits for the response.
    Waiting {
        waiting: Waiting<F>,
        tick: Interval,
    },
    /// Reads a response that is no stream.
    Reading(Pin<Box<dyn Future<Output = Vec<u8>> + Send>>),
    Streaming(Body),
    Ended,
}

/// A request was held for `max-hold` and is still queued.
#[derive(Debug, thiserror::Error)]
#[error("held for max-hold and still waiting")]
pub(crate) struct MaxHoldExceeded {
    /// How much longer it would have waited.
    pub(crate) estimate: Duration,
}

/// A request failed after its response headers were sent. The edge turns it into the last event.
#[derive(Debug, thiserror::Error)]
#[error("failed after the response headers were sent")]
pub(crate) struct LateError(#[source] pub(crate) BoxError);

/// Far below the five minutes of silence after which OpenCode gives up on a stream, and often
/// enough for a person who watches.
const COMMENT_EVERY: Duration = Duration::from_secs(15);

/// The largest error document that becomes an event.
const MAX_ERROR: usize = 64 * 1024;

// === impl KeepWaitingLayer ===

impl<S> Layer<S> for KeepWaitingLayer {
    type Service = KeepWaiting<S>;

    fn layer(&self, inner: S) -> Self::Service {
        KeepWaiting {
            inner,
            max_hold: self.max_hold,
            gate: self.gate.clone(),
        }
    }
}

// === impl KeepWaiting ===

impl<S, B> Service<Request<B>> for KeepWaiting<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let context = request.extensions().get::<RequestContext>().cloned();
        // Known by now: the router has read the request's parameters.
        let expects_stream = context.as_ref().is_some_and(RequestContext::expects_stream);
        ResponseFuture {
            waiting: Some(Waiting {
                call: Box::pin(self.inner.call(request)),
                gate: self.gate.clone(),
                context,
            }),
            max_hold: sleep(self.max_hold),
            expects_stream,
            dispatched: false,
        }
    }
}

// === impl ResponseFuture ===

impl<F> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<Body>, BoxError>> + Send + 'static,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        #[expect(clippy::expect_used, reason = "the contract of Future")]
        let waiting = this.waiting.as_mut().expect("polled after ready");
        if let outcome @ Poll::Ready(_) = waiting.call.as_mut().poll(cx) {
            return outcome;
        }
        if *this.dispatched {
            return Poll::Pending;
        }
        ready!(this.max_hold.poll(cx));
        if *this.expects_stream
            && let Some(waiting) = this.waiting.take()
        {
            return Poll::Ready(Ok(early_response(waiting)));
        }
        match this.waiting.as_ref().and_then(Waiting::position) {
            Some(QueuePosition { eta, .. }) => {
                Poll::Ready(Err(MaxHoldExceeded { estimate: eta }.into()))
            }
            None => {
                *this.dispatched = true;
                Poll::Pending
            }
        }
    }
}

fn early_response<F>(waiting: Waiting<F>) -> Response<Body>
where
    F: Future<Output = Result<Response<Body>, BoxError>> + Send + 'static,
{
    let mut tick = interval(COMMENT_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let body = WaitingBody(WaitState::Waiting { waiting, tick });
    let mut response = Response::new(body.boxed_unsync());
    let headers = response.headers_mut();
    let event_stream = HeaderValue::from_static("text/event-stream");
    headers.insert(header::CONTENT_TYPE, event_stream);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

// === impl Waiting ===

impl<F> Waiting<F> {
    /// The request's position, if it is queued.
    fn position(&self) -> Option<QueuePosition> {
        self.gate.as_ref()?.queue_position(self.context.as_ref()?)
    }
}

// === impl WaitingBody ===

impl<F> http_body::Body for WaitingBody<F>
where
    F: Future<Output = Result<Response<Body>, BoxError>>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let state = &mut self.0;
        loop {
            match state {
                WaitState::Waiting { waiting, tick } => {
                    let Poll::Ready(outcome) = waiting.call.as_mut().poll(cx) else {
                        ready!(tick.poll_tick(cx));
                        let comment = keep_alive(waiting.position());
                        return Poll::Ready(Some(Ok(Frame::data(comment))));
                    };
                    *state = match outcome {
                        Ok(response) if is_event_stream(&response) => {
                            WaitState::Streaming(response.into_body())
                        }
                        Ok(response) => {
                            WaitState::Reading(Box::pin(read_prefix(response.into_body())))
                        }
                        Err(error) => {
                            *state = WaitState::Ended;
                            return Poll::Ready(Some(Err(LateError(error).into())));
                        }
                    };
                }
                WaitState::Reading(document) => {
                    let document = ready!(document.as_mut().poll(cx));
                    *state = WaitState::Ended;
                    return Poll::Ready(Some(Ok(Frame::data(error_event(&document)))));
                }
                WaitState::Streaming(body) => return Pin::new(body).poll_frame(cx),
                WaitState::Ended => return Poll::Ready(None),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            WaitState::Waiting { .. } | WaitState::Reading(_) => false,
            WaitState::Streaming(body) => body.is_end_stream(),
            WaitState::Ended => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// A stream with a content coding cannot follow headers that named none.
fn is_event_stream(response: &Response<Body>) -> bool {
    response.status().is_success() && sse::is_readable(response.headers())
}

/// The beginning of a response that is no stream, up to its first error.
async fn read_prefix(mut body: Body) -> Vec<u8> {
    let mut read = Vec::new();
    while read.len() < MAX_ERROR
        && let Some(Ok(frame)) = body.frame().await
    {
        read.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
    }
    read
}

#[cfg(test)]
mod tests {
    use pacegate_layers::pacing::Pacing;
    use rand::{SeedableRng, rngs::StdRng};
    use tokio::time::Instant;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::api::full;

    const LIMIT: Duration = Duration::from_secs(240);

    /// The outcome of `call` for a client that asks for a stream, or does not.
    async fn outcome_of<F>(
        call: F,
        gate: Option<Gate>,
        context: RequestContext,
        expects_stream: bool,
    ) -> Result<Response<Body>, BoxError>
    where
        F: Future<Output = Result<Response<Body>, BoxError>> + Send + 'static,
    {
        if expects_stream {
            context.expect_stream();
        }
        let mut call = Some(call);
        let inner = service_fn(move |_: Request<()>| call.take().unwrap());
        let max_hold = LIMIT;
        let service = KeepWaitingLayer { max_hold, gate }.layer(inner);
        let mut request = Request::new(());
        request.extensions_mut().insert(context);
        service.oneshot(request).await
    }

    /// A request that waits at the gate for `wait`.
    fn waiting(
        wait: Duration,
        expects_stream: bool,
    ) -> (impl Future<Output = Result<Response<Body>, BoxError>>, Gate) {
        let pacing = Pacing::new().min_interval(wait).max_wait(2 * wait);
        let gate = Gate::new(pacing, StdRng::seed_from_u64(1));
        let context = RequestContext::new();
        let (queue, queued) = (gate.clone(), context.clone());
        let call = async move {
            queue.acquire(None).await?;
            let _permit = queue.acquire(Some(queued)).await?;
            let mut response = Response::new(full("data: upstream\n\n"));
            let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            Ok(response)
        };
        (
            outcome_of(call, Some(gate.clone()), context, expects_stream),
            gate,
        )
    }

    async fn text(response: Response<Body>) -> String {
        let whole = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8_lossy(&whole).into_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_in_time_passes_unchanged() {
        let (call, _gate) = waiting(LIMIT - Duration::from_secs(1), true);
        assert_eq!(text(call.await.unwrap()).await, "data: upstream\n\n");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_begins_with_comments_then_has_the_upstreams_events() {
        let (call, _gate) = waiting(LIMIT + Duration::from_secs(20), true);
        let start = Instant::now();
        let response = call.await.unwrap();
        assert_eq!(start.elapsed(), LIMIT);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(
            text(response).await,
            ": queued place=1 eta=20s (requests are spaced out)\n\n: queued place=1 eta=5s (requests \
             are spaced out)\n\ndata: upstream\n\n"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_without_a_stream_gets_an_estimate() {
        let (call, gate) = waiting(LIMIT + Duration::from_secs(20), false);
        let error = call.await.unwrap_err();
        let exceeded: &MaxHoldExceeded = error.downcast_ref().unwrap();
        assert_eq!(exceeded.estimate, Duration::from_secs(20));
        assert_eq!(gate.waiting(), 0, "it has left the queue");
    }

    #[tokio::test(start_paused = true)]
    async fn a_dispatched_request_is_not_given_up() {
        let (_waiting, gate) = waiting(LIMIT, false);
        let late = async {
            sleep(2 * LIMIT).await;
            Ok(Response::new(full("late")))
        };
        let late = outcome_of(late, Some(gate), RequestContext::new(), false);
        assert_eq!(text(late.await.unwrap()).await, "late");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_after_the_headers_is_an_event() {
        let refused = async {
            sleep(LIMIT + Duration::from_secs(1)).await;
            let mut response = Response::new(full("{\n\"error\": 1\n}"));
            *response.status_mut() = http::StatusCode::TOO_MANY_REQUESTS;
            Ok(response)
        };
        let response = outcome_of(refused, None, RequestContext::new(), true).await;
        assert_eq!(
            text(response.unwrap()).await,
            ": waiting for the upstream\n\ndata: {\ndata: \"error\": 1\ndata: }\n\n"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_after_the_headers_is_a_late_error() {
        let failed = async {
            sleep(LIMIT + Duration::from_secs(1)).await;
            Err("down".into())
        };
        let response = outcome_of(failed, None, RequestContext::new(), true).await;
        let error = response.unwrap().into_body().collect().await.unwrap_err();
        let late: &LateError = error.downcast_ref().unwrap();
        assert_eq!(late.0.to_string(), "down");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_disconnects_leaves_the_queue() {
        let (call, gate) = waiting(2 * LIMIT, true);
        let mut body = call.await.unwrap().into_body();
        body.frame().await.unwrap().unwrap();
        assert_eq!(gate.waiting(), 1);
        drop(body);
        assert_eq!(gate.waiting(), 0);
    }
}
