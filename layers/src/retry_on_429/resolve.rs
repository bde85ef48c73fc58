//! What happens once a first attempt did not simply succeed: read, judge, wait, try again.

use std::{
    future::poll_fn,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use http::{HeaderName, HeaderValue, Request, Response, header};
use http_body::Body;
use rand::{RngExt, rngs::StdRng};
use tokio::time::{Instant, sleep};
use tower_service::Service;
use tracing::debug;

use super::{
    backoff::Backoff,
    body::PeekedBody,
    classify::{Answer, Classify, Verdict},
    retry_after::requested_wait,
};
use crate::{
    cooldown::Cooldown,
    error::{BoxError, NotSent, chain_text},
};

/// What a layer was told.
#[derive(Clone, Debug)]
pub(super) struct Policy<C> {
    pub(super) classify: C,
    pub(super) max_retries: u32,
    pub(super) max_hold: Duration,
    pub(super) default_wait: Duration,
    pub(super) cooldown: Option<Cooldown>,
    pub(super) rng: Arc<Mutex<StdRng>>,
}

/// OpenCode drops a request that has had no head for 300 s; a minute is left for the answer.
const MAX_HOLD: Duration = Duration::from_secs(240);

/// Most limits are counted per minute.
const DEFAULT_WAIT: Duration = Duration::from_secs(60);

/// A shorter wait would find the same window still full.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);

/// An upstream that wants more time than this does not mean "slow down": nobody waits for it, and
/// the account does not rest longer than this on one answer's word.
const LONGEST_WAIT: Duration = Duration::from_secs(15 * 60);

/// Longer than any provider's error document.
const PEEK_BYTES: usize = 8 * 1024;

/// An error document that takes longer than this to arrive is judged by what is there.
const PEEK_TIME: Duration = Duration::from_secs(5);

/// Milliseconds, as the OpenAI SDKs read and write it.
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// Obeyed by the OpenAI SDKs.
const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

// === impl Policy ===

impl<C> Policy<C> {
    pub(super) fn new(classify: C) -> Self {
        Self {
            classify,
            max_retries: 2,
            max_hold: MAX_HOLD,
            default_wait: DEFAULT_WAIT,
            cooldown: None,
            rng: Arc::new(Mutex::new(rand::make_rng())),
        }
    }

    /// Up to a tenth more than `wait`, so that those who were refused together do not return
    /// together.
    fn jittered(&self, wait: Duration) -> Duration {
        wait + self.with_rng(|rng| rng.random_range(Duration::ZERO..=wait / 10))
    }

    fn with_rng<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.rng.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Brings a request whose first attempt ended in `outcome` to its end.
pub(super) async fn resolve<S, C, B, R>(
    mut outcome: Result<Response<R>, BoxError>,
    mut service: S,
    request: Request<B>,
    policy: Policy<C>,
    started: Instant,
) -> Result<Response<PeekedBody<R>>, BoxError>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    C: Classify,
    B: Clone,
    R: Body + Unpin,
{
    let mut backoff = Backoff::new();
    let mut retries = 0;
    loop {
        let spent = retries >= policy.max_retries;
        let fits = |wait: Duration| started.elapsed() + wait <= policy.max_hold;
        match outcome {
            Ok(response) => {
                let (response, wait) = match judge(response, &policy).await {
                    Judged::Pass(response) => return Ok(response),
                    Judged::Retry(response, wait) => (response, wait),
                };
                let delay = policy.jittered(wait.clamp(SHORTEST_WAIT, LONGEST_WAIT));
                if let Some(cooldown) = &policy.cooldown {
                    cooldown.close_until(Instant::now() + delay);
                }
                if spent || wait > LONGEST_WAIT || !fits(delay) {
                    let estimate = policy.cooldown.as_ref().map_or(delay, Cooldown::estimate);
                    return Ok(hand_on(response, estimate, spent));
                }
                // Whatever the refused answer holds, such as a slot in flight, is free before the
                // wait begins.
                drop(response);
                debug!(retries, ?delay, "Retrying after a refusal");
                if policy.cooldown.is_none() {
                    sleep(delay).await;
                }
            }
            Err(error) => {
                let delay = policy.with_rng(|rng| backoff.next(rng));
                if NotSent::in_chain(&*error).is_none() || spent || !fits(delay) {
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

enum Judged<R: Body> {
    Pass(Response<PeekedBody<R>>),
    Retry(Response<PeekedBody<R>>, Duration),
}

async fn judge<C, R>(response: Response<R>, policy: &Policy<C>) -> Judged<R>
where
    C: Classify,
    R: Body + Unpin,
{
    if !policy.classify.concerns(response.status()) {
        return Judged::Pass(response.map(PeekedBody::untouched));
    }
    let (head, body) = response.into_parts();
    let body = PeekedBody::peek(body, PEEK_BYTES, Instant::now() + PEEK_TIME).await;
    let beginning = body.beginning();
    let verdict = policy.classify.classify(&Answer {
        status: head.status,
        headers: &head.headers,
        body: &beginning,
    });
    match verdict {
        Verdict::Pass => Judged::Pass(Response::from_parts(head, body)),
        Verdict::Retry => {
            let text = String::from_utf8_lossy(&beginning);
            let wait = requested_wait(&head.headers, &text, SystemTime::now())
                .unwrap_or(policy.default_wait);
            Judged::Retry(Response::from_parts(head, body), wait)
        }
    }
}

/// Gives a "slow down" to the client, with our own word on when to come back.
fn hand_on<R>(mut response: Response<R>, estimate: Duration, spent: bool) -> Response<R> {
    let seconds = estimate.as_secs() + u64::from(estimate.subsec_nanos() > 0);
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    headers.remove(RETRY_AFTER_MS);
    if spent {
        headers.insert(X_SHOULD_RETRY, HeaderValue::from_static("false"));
    }
    response
}
