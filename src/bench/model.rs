//! A modelled upstream with exact limits and random response times.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use pacegate_layers::{error::BoxError, retry_on_429::retry_after::delay_seconds};
use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::{Instant, Sleep, sleep};
use tower::service_fn;

use super::{
    client::RequestId,
    limit::{Limit, LimitCounter},
    log::{Attempt, RequestLog},
};
use crate::{body::Body, upstreams::UpstreamService};

/// The modelled upstream.
#[derive(Debug)]
pub(super) struct ModelUpstream {
    counters: Mutex<Vec<LimitCounter>>,
    log: Arc<RequestLog>,
    epoch: Instant,
    seed: u64,
    answer_time: Duration,
}

/// A body without data that ends after the response time.
struct TimedBody(Pin<Box<Sleep>>);

/// Delay before the response headers.
const LATENCY: Duration = Duration::from_millis(50);

/// The longest response time, as a multiple of the mean.
const LONGEST: f64 = 10.0;

// === impl ModelUpstream ===

impl ModelUpstream {
    pub(super) fn new(
        limits: &[Limit],
        log: Arc<RequestLog>,
        epoch: Instant,
        seed: u64,
        answer_time: Duration,
    ) -> Self {
        Self {
            counters: Mutex::new(limits.iter().copied().map(LimitCounter::new).collect()),
            log,
            epoch,
            seed,
            answer_time,
        }
    }

    pub(super) fn into_service(self) -> UpstreamService {
        let upstream = Arc::new(self);
        UpstreamService::new(service_fn(move |request: Request<Full<Bytes>>| {
            // Counted here, not when the future is polled: the call is the dispatch.
            let request_id = request.extensions().get().copied().unwrap_or(RequestId(0));
            let wait = upstream.count(request_id);
            let answer_time = upstream.draw(request_id);
            async move {
                sleep(LATENCY).await;
                let body = match wait {
                    Some(_) => Full::new(Bytes::from_static(REFUSAL))
                        .map_err(|never| match never {})
                        .boxed_unsync(),
                    None => UnsyncBoxBody::new(TimedBody(Box::pin(sleep(answer_time)))),
                };
                let mut response = Response::new(body);
                if let Some(wait) = wait {
                    *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
                    let seconds = delay_seconds(wait);
                    response
                        .headers_mut()
                        .insert(header::RETRY_AFTER, seconds.into());
                }
                Ok::<Response<Body>, BoxError>(response)
            }
        }))
    }

    /// Records an arrival; returns how long to wait if it is refused. A refused request does not
    /// count towards a limit.
    fn count(&self, RequestId(request_id): RequestId) -> Option<Duration> {
        let at = self.epoch.elapsed();
        let mut counters = self.counters.lock();
        let wait = counters
            .iter_mut()
            .filter_map(|counter| counter.wait(at))
            .max();
        if wait.is_none() {
            counters.iter_mut().for_each(|counter| counter.admit(at));
        }
        self.log.lock().attempts.push(Attempt {
            request_id,
            at,
            admitted: wait.is_none(),
        });
        wait
    }

    /// The response time: exponentially distributed, and the same for a request under every policy.
    fn draw(&self, RequestId(request_id): RequestId) -> Duration {
        let sent = self.log.lock().sent.get(request_id).copied();
        let request = sent.map_or(0, |sent| sent.request as u64);
        let mut rng = StdRng::seed_from_u64(self.seed.wrapping_add(request));
        // The inverse of the distribution; 1 - x is never zero.
        let times = -(1.0 - rng.random::<f64>()).ln();
        self.answer_time.mul_f64(times.min(LONGEST))
    }
}

/// Every dialect reads this as "slow down".
const REFUSAL: &[u8] = br#"{"error":{"message":"Too many requests","type":"rate_limit"}}"#;

// === impl TimedBody ===

impl http_body::Body for TimedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        ready!(self.0.as_mut().poll(cx));
        Poll::Ready(None)
    }
}
