//! What follows a first attempt that was not a plain success: read, decide, wait, retry.

use std::{
    future::poll_fn,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body::Body;
use parking_lot::Mutex;
use rand::{RngExt, rngs::StdRng};
use tokio::time::{Instant, sleep};
use tower_service::Service;
use tracing::debug;

use super::{
    backoff::Backoff,
    body::PeekedBody,
    budget::RetryBudget,
    classify::{Classify, PeekedResponse, Verdict},
    retry_after::{delay_seconds, requested_wait},
    sse,
};
use crate::{
    context::RequestContext,
    error::{BoxError, NotSent, SlowDown, chain, chain_text},
    pacing::{Feedback, Recovery},
};

/// The settings of a layer.
#[derive(Clone, Debug)]
pub(super) struct RetryPolicy<C> {
    pub(super) classify: C,
    pub(super) max_retries: u32,
    pub(super) max_hold: Duration,
    pub(super) default_wait: Duration,
    pub(super) feedback: Option<Arc<dyn Feedback>>,
    pub(super) budget: RetryBudget,
    pub(super) rng: Arc<Mutex<StdRng>>,
}

/// OpenCode drops a request without response headers after 300 s; a minute is left for the
/// response.
const MAX_HOLD: Duration = Duration::from_secs(240);

/// Most limits are counted per minute.
const DEFAULT_WAIT: Duration = Duration::from_secs(60);

/// After a shorter wait the same window would still be full.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);

/// An upstream that asks for more time does not mean a refusal for now: no request waits for it,
/// and one response does not pause the account for longer.
const LONGEST_WAIT: Duration = Duration::from_secs(15 * 60);

/// Longer than any provider's error document.
const PEEK_BYTES: usize = 8 * 1024;

/// An error document that takes longer to arrive is classified by what has arrived.
const PEEK_TIME: Duration = Duration::from_secs(5);

/// An upstream that sends response headers and then no event for this long is working, not
/// refusing.
const FIRST_EVENT_TIME: Duration = Duration::from_secs(30);

/// Milliseconds, as the OpenAI SDKs read and write it.
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// The OpenAI SDKs honour it.
const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

// === impl RetryPolicy ===

impl<C> RetryPolicy<C> {
    pub(super) fn new(classify: C) -> Self {
        Self {
            classify,
            max_retries: 2,
            max_hold: MAX_HOLD,
            default_wait: DEFAULT_WAIT,
            feedback: None,
            budget: RetryBudget::new(1.0),
            rng: Arc::new(Mutex::new(rand::make_rng())),
        }
    }

    /// Whether the body of `response` has to be read to classify it.
    pub(super) fn inspects<R>(&self, response: &Response<R>) -> bool
    where
        C: Classify,
    {
        let status = response.status();
        if status.is_success() {
            return self.classify.inspects_streams() && sse::is_readable(response.headers());
        }
        self.classify.inspects_status(status)
    }

    pub(super) fn report_accepted(&self, request: &RequestContext) {
        if let Some(feedback) = &self.feedback {
            feedback.accepted(request);
        }
    }

    fn report_exhausted(&self, exhausted: Exhausted) {
        if let (Some(feedback), Some(reset)) = (&self.feedback, exhausted.reset) {
            feedback.exhausted(Instant::now() + reset);
        }
    }

    /// Adds up to a tenth to `wait`, so that requests refused together do not return together.
    fn jittered(&self, wait: Duration) -> Duration {
        wait + self.with_rng(|rng| rng.random_range(Duration::ZERO..=wait / 10))
    }

    fn with_rng<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.rng.lock())
    }
}

/// A quota is exhausted at the upstream: no retry makes sense, and no client should try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the upstream says that a quota is used up")]
pub struct Exhausted {
    /// How long until the quota allows a request again, if known.
    pub reset: Option<Duration>,
}

/// What another attempt needs.
pub(super) struct Retry<S, C, B> {
    pub(super) service: S,
    pub(super) request: Request<B>,
    pub(super) policy: Arc<RetryPolicy<C>>,
}

impl<S, C, B> Retry<S, C, B> {
    /// The context that all attempts share.
    pub(super) fn context(&self) -> RequestContext {
        let extensions = self.request.extensions();
        extensions.get().cloned().unwrap_or_default()
    }
}

/// Retries a request whose first attempt ended in `outcome`, until a response can be returned.
pub(super) async fn resolve<S, C, B, R>(
    mut outcome: Result<Response<R>, BoxError>,
    retry: Retry<S, C, B>,
    started: Instant,
) -> Result<Response<PeekedBody<R>>, BoxError>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    C: Classify,
    B: Clone,
    R: Body + Unpin,
{
    let context = retry.context();
    let Retry {
        mut service,
        request,
        policy,
    } = retry;
    let mut backoff = Backoff::new();
    let mut retries = 0;
    loop {
        let no_retries_left = retries >= policy.max_retries;
        let fits_max_hold = |wait: Duration| started.elapsed() + wait <= policy.max_hold;
        match outcome {
            Ok(response) => {
                let (response, wait, recovery) = match decide(response, &policy).await {
                    Decision::Exhausted(exhausted) => {
                        policy.report_exhausted(exhausted);
                        return Err(exhausted.into());
                    }
                    Decision::Pass(response) => {
                        policy.report_accepted(&context);
                        return Ok(response);
                    }
                    Decision::Retry(response, wait, recovery) => (response, wait, recovery),
                };
                let delay = policy.jittered(wait.clamp(SHORTEST_WAIT, LONGEST_WAIT));
                if let Some(feedback) = &policy.feedback {
                    feedback.refused(&context, Instant::now() + delay, recovery);
                }
                let is_final = wait > LONGEST_WAIT || !fits_max_hold(delay);
                if no_retries_left || is_final || !policy.budget.take_retry() {
                    let estimate = policy.feedback.as_ref().map(|feedback| feedback.estimate());
                    return Ok(return_refusal(
                        response,
                        estimate.unwrap_or(delay),
                        no_retries_left,
                    ));
                }
                // Frees what the refused response holds, such as a slot in flight, before the wait
                // begins.
                drop(response);
                debug!(retries, ?delay, "Retrying after a refusal");
                if policy.feedback.is_none() {
                    sleep(delay).await;
                }
            }
            Err(error) if chain(&*error).any(|cause| cause.is::<SlowDown>()) => {
                let delay = policy.jittered(policy.default_wait.clamp(SHORTEST_WAIT, LONGEST_WAIT));
                if let Some(feedback) = &policy.feedback {
                    feedback.refused(&context, Instant::now() + delay, Recovery::Same);
                }
                if no_retries_left || !fits_max_hold(delay) || !policy.budget.take_retry() {
                    return Err(error);
                }
                debug!(retries, ?delay, "Retrying after a refusal");
                if policy.feedback.is_none() {
                    sleep(delay).await;
                }
            }
            Err(error) => {
                let delay = policy.with_rng(|rng| backoff.next(rng));
                let is_final = NotSent::in_chain(&*error).is_none() || !fits_max_hold(delay);
                if no_retries_left || is_final || !policy.budget.take_retry() {
                    return Err(error);
                }
                debug!(
                    retries,
                    ?delay,
                    error = chain_text(&*error),
                    "Retrying a request not sent"
                );
                sleep(delay).await;
            }
        }
        retries += 1;
        poll_fn(|cx| service.poll_ready(cx))
            .await
            .map_err(Into::into)?;
        outcome = service.call(request.clone()).await.map_err(Into::into);
    }
}

enum Decision<R: Body> {
    Exhausted(Exhausted),
    Pass(Response<PeekedBody<R>>),
    Retry(Response<PeekedBody<R>>, Duration, Recovery),
}

async fn decide<C, R>(response: Response<R>, policy: &RetryPolicy<C>) -> Decision<R>
where
    C: Classify,
    R: Body + Unpin,
{
    if !policy.inspects(&response) {
        return Decision::Pass(response.map(PeekedBody::untouched));
    }
    let (head, body) = response.into_parts();
    let (body, beginning) = if head.status.is_success() {
        let deadline = Instant::now() + FIRST_EVENT_TIME;
        PeekedBody::peek(body, deadline, has_first_event).await
    } else {
        let deadline = Instant::now() + PEEK_TIME;
        PeekedBody::peek(body, deadline, |read| read.len() >= PEEK_BYTES).await
    };
    let verdict = policy.classify.classify(&PeekedResponse {
        status: head.status,
        headers: &head.headers,
        body: &beginning,
    });
    match verdict {
        Verdict::Exhausted { reset } => Decision::Exhausted(Exhausted { reset }),
        Verdict::Pass => Decision::Pass(Response::from_parts(head, body)),
        Verdict::Retry { recovery, at_least } => {
            let text = String::from_utf8_lossy(&beginning);
            let requested = requested_wait(&head.headers, &text, SystemTime::now());
            let default = if at_least.is_zero() {
                policy.default_wait
            } else {
                at_least
            };
            let wait = requested.map_or(default, |requested| requested.max(at_least));
            Decision::Retry(Response::from_parts(head, body), wait, recovery)
        }
    }
}

/// Whether the first event is complete, or longer than any error event.
fn has_first_event(read: &[u8]) -> bool {
    read.len() >= PEEK_BYTES || sse::first_event(read).is_complete
}

/// Returns a refusal to the client, with our own estimate of when to retry.
fn return_refusal<R>(
    mut response: Response<R>,
    estimate: Duration,
    no_retries_left: bool,
) -> Response<R> {
    // A stream that begins with a refusal: clients ignore `Retry-After` under a success.
    if response.status().is_success() {
        *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    }
    let headers = response.headers_mut();
    headers.insert(
        header::RETRY_AFTER,
        HeaderValue::from(delay_seconds(estimate)),
    );
    headers.remove(RETRY_AFTER_MS);
    if no_retries_left {
        headers.insert(X_SHOULD_RETRY, HeaderValue::from_static("false"));
    }
    response
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn comments_alone_are_no_event() {
        for (text, holds) in [
            ("", false),
            (": PROCESSING\n\n", false),
            (":still here\n\n:\n\n", false),
            ("\u{feff}: busy\n\n", false),
            (": PROCESSING\n\ndata: {}", false),
            (": PROCESSING\n\ndata: {}\n\n", true),
            (": PROCESSING\r\n\r\ndata: {}\r\n\r\n", true),
            ("id:1\nevent:error\n:HTTP_STATUS/429\ndata:{}\n\n", true),
        ] {
            assert_eq!(has_first_event(text.as_bytes()), holds, "{text:?}");
        }
        assert!(has_first_event(&vec![b'x'; PEEK_BYTES]));
    }

    proptest! {
        #[test]
        fn line_ends_of_any_kind_mean_the_same(text in "\u{feff}?[a:\r\n]{0,24}") {
            let lines = text.trim_start_matches('\u{feff}').replace("\r\n", "\n").replace('\r', "\n");
            let whole = lines.rsplit_once("\n\n").map_or("", |(events, _incomplete)| events);
            let mut fields = whole.split('\n').filter(|line| !line.is_empty() && !line.starts_with(':'));
            prop_assert_eq!(has_first_event(text.as_bytes()), fields.next().is_some());
        }
    }
}
