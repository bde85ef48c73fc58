//! Keeps the client of a long wait from giving up, without promising what may not come.
//!
//! A request is held in silence for as long as clients bear it. Past that, one that still queues is
//! answered 429 with the time to come back; one that wants a stream gets its head and comments
//! until the upstream answers. The head costs the status and the `Retry-After` of a later refusal,
//! so it is not sent before it is needed.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use pacegate_layers::{error::BoxError, pacing::QueuePosition};
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

use super::drain::UnlessQueued;
use crate::{body::Body, edge::rescue_table::ErrorResponse};

/// Far below the five minutes of silence in a stream after which OpenCode gives up, and often
/// enough for whoever watches the stream.
const COMMENT_EVERY: Duration = Duration::from_secs(15);

/// An upstream's error document, which becomes one event.
const MAX_ERROR: usize = 64 * 1024;

/// A request was held for as long as may be and still queued.
#[derive(Debug, thiserror::Error)]
#[error("held for max-hold and still waiting")]
pub(crate) struct MaxHoldExceeded {
    /// How long it would still have taken.
    pub(crate) estimate: Duration,
}

/// The body of a stream that began before the upstream's answer.
struct WaitingBody(WaitState);

enum WaitState {
    /// For the answer.
    Waiting {
        call: UnlessQueued,
        tick: Interval,
    },
    /// For an answer that is no stream.
    Reading(Pin<Box<dyn Future<Output = Vec<u8>> + Send>>),
    Streaming(Body),
    Ended,
}

/// The outcome of `call`, or what a client can bear instead once it was held for `max_hold`; `streams`
/// if it wants an event stream.
///
/// # Cancel safety
///
/// Dropping the future, or the body it gives, drops `call`.
pub(crate) async fn keep_waiting(
    mut call: UnlessQueued,
    streams: bool,
    max_hold: Duration,
) -> Result<Response<Body>, BoxError> {
    if let Ok(outcome) = timeout(max_hold, &mut call).await {
        return outcome;
    }
    if streams {
        return Ok(begin(call));
    }
    match call.queue_position() {
        Some(QueuePosition { eta, .. }) => Err(MaxHoldExceeded { estimate: eta }.into()),
        // It has left, and the upstream is at work; its own time-outs apply.
        None => call.await,
    }
}

fn begin(call: UnlessQueued) -> Response<Body> {
    let mut tick = interval(COMMENT_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let waiting = WaitingBody(WaitState::Waiting { call, tick });
    let mut response = Response::new(waiting.boxed_unsync());
    let headers = response.headers_mut();
    let event_stream = HeaderValue::from_static("text/event-stream");
    headers.insert(header::CONTENT_TYPE, event_stream);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

fn comment(queue_position: Option<QueuePosition>) -> Bytes {
    match queue_position {
        Some(QueuePosition { place, eta }) => {
            format!(": queued place={place} eta={}s\n\n", eta.as_secs()).into()
        }
        None => Bytes::from_static(b": waiting for the upstream\n\n"),
    }
}

// === impl WaitingBody ===

impl http_body::Body for WaitingBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let state = &mut self.0;
        loop {
            match state {
                WaitState::Waiting { call, tick } => {
                    let Poll::Ready(outcome) = Pin::new(&mut *call).poll(cx) else {
                        ready!(tick.poll_tick(cx));
                        return Poll::Ready(Some(Ok(Frame::data(comment(call.queue_position())))));
                    };
                    *state = match outcome {
                        Ok(response) if is_event_stream(&response) => {
                            WaitState::Streaming(response.into_body())
                        }
                        Ok(response) => {
                            WaitState::Reading(Box::pin(beginning(response.into_body())))
                        }
                        Err(error) => {
                            let response = ErrorResponse::from_error(&*error).into_response();
                            WaitState::Reading(Box::pin(beginning(response.into_body())))
                        }
                    };
                }
                WaitState::Reading(document) => {
                    let document = ready!(document.as_mut().poll(cx));
                    *state = WaitState::Ended;
                    return Poll::Ready(Some(Ok(Frame::data(event(&document)))));
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

/// An encoded stream cannot follow a head that did not say so.
fn is_event_stream(response: &Response<Body>) -> bool {
    let headers = response.headers();
    let kind = headers.get(header::CONTENT_TYPE);
    response.status().is_success()
        && !headers.contains_key(header::CONTENT_ENCODING)
        && kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

/// The beginning of an answer that is no stream, as far as it can be read.
async fn beginning(mut body: Body) -> Vec<u8> {
    let mut read = Vec::new();
    while read.len() < MAX_ERROR
        && let Some(Ok(frame)) = body.frame().await
    {
        read.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
    }
    read
}

/// One event with `document` as its data, line by line.
fn event(document: &[u8]) -> Bytes {
    let text = String::from_utf8_lossy(document);
    let lines = text.lines().map(|line| format!("data: {line}\n"));
    let event: String = lines.chain(["\n".to_owned()]).collect();
    event.into()
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::edge::rescue_table::full;
    use pacegate_layers::{
        context::RequestContext,
        pacing::{Gate, Pacing},
    };
    use tokio_util::sync::CancellationToken;

    const LIMIT: Duration = Duration::from_secs(240);

    async fn held(call: UnlessQueued, streams: bool) -> Result<Response<Body>, BoxError> {
        keep_waiting(call, streams, LIMIT).await
    }

    fn call(
        call: impl Future<Output = Result<Response<Body>, BoxError>> + Send + 'static,
        gate: Option<Gate>,
        context: RequestContext,
    ) -> UnlessQueued {
        let never = CancellationToken::new();
        UnlessQueued::new(Box::pin(call), gate, context, never.into())
    }

    /// A request that waits in the gate for `wait`.
    fn waiting(wait: Duration) -> (UnlessQueued, Gate) {
        let pacing = Pacing::new().min_interval(wait).max_wait(2 * wait);
        let gate = Gate::new(pacing, StdRng::seed_from_u64(1));
        let context = RequestContext::new();
        let (held, place) = (gate.clone(), context.clone());
        let waits = async move {
            held.acquire(None).await?;
            let _permit = held.acquire(Some(place)).await?;
            let mut response = Response::new(full("data: upstream\n\n"));
            let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            Ok(response)
        };
        (call(waits, Some(gate.clone()), context), gate)
    }

    async fn text(response: Response<Body>) -> String {
        let whole = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8_lossy(&whole).into_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_in_time_is_handed_on_as_it_is() {
        let (call, _gate) = waiting(LIMIT - Duration::from_secs(1));
        let response = held(call, true).await.unwrap();
        assert_eq!(text(response).await, "data: upstream\n\n");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_begins_with_comments_and_goes_on_with_the_upstreams_events() {
        let (call, _gate) = waiting(LIMIT + Duration::from_secs(20));
        let start = Instant::now();
        let response = held(call, true).await.unwrap();
        assert_eq!(start.elapsed(), LIMIT);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(
            text(response).await,
            ": queued place=1 eta=20s\n\n: queued place=1 eta=5s\n\ndata: upstream\n\n"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_wants_no_stream_is_told_when_to_come_back() {
        let (call, gate) = waiting(LIMIT + Duration::from_secs(20));
        let error = held(call, false).await.unwrap_err();
        let held: &MaxHoldExceeded = error.downcast_ref().unwrap();
        assert_eq!(held.estimate, Duration::from_secs(20));
        assert_eq!(gate.waiting(), 0, "its place is free");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_has_left_is_not_given_up() {
        let (_waiting, gate) = waiting(LIMIT);
        let late = async {
            sleep(2 * LIMIT).await;
            Ok(Response::new(full("late")))
        };
        let late = call(late, Some(gate), RequestContext::new());
        assert_eq!(text(held(late, false).await.unwrap()).await, "late");
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_after_the_head_is_an_event() {
        let refused = async {
            sleep(LIMIT + Duration::from_secs(1)).await;
            let mut response = Response::new(full("{\n\"error\": 1\n}"));
            *response.status_mut() = http::StatusCode::TOO_MANY_REQUESTS;
            Ok(response)
        };
        let refused = call(refused, None, RequestContext::new());
        let response = held(refused, true).await.unwrap();
        assert_eq!(
            text(response).await,
            ": waiting for the upstream\n\ndata: {\ndata: \"error\": 1\ndata: }\n\n"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_leaves_the_comments_frees_its_place() {
        let (call, gate) = waiting(2 * LIMIT);
        let mut body = held(call, true).await.unwrap().into_body();
        body.frame().await.unwrap().unwrap();
        assert_eq!(gate.waiting(), 1);
        drop(body);
        assert_eq!(gate.waiting(), 0);
    }
}
