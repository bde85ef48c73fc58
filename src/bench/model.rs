//! A modelled upstream: exact limits, and answers that take their time.

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
use pacegate_layers::error::BoxError;
use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::{Instant, Sleep, sleep};
use tower::service_fn;

use super::{
    client::{Ticket, whole_seconds},
    limit::{Limit, Tally},
    log::{Book, Try},
};
use crate::{body::Body, upstreams::UpstreamService};

/// The upstream.
#[derive(Debug)]
pub(super) struct Model {
    tallies: Mutex<Vec<Tally>>,
    book: Arc<Book>,
    epoch: Instant,
    seed: u64,
    answer_time: Duration,
}

/// A body without data that ends when the answer would.
struct Answering(Pin<Box<Sleep>>);

/// Before the head of any answer.
const LATENCY: Duration = Duration::from_millis(50);

/// No answer takes longer than so many times the mean.
const LONGEST: f64 = 10.0;

// === impl Model ===

impl Model {
    pub(super) fn new(
        limits: &[Limit],
        book: Arc<Book>,
        epoch: Instant,
        seed: u64,
        answer_time: Duration,
    ) -> Self {
        Self {
            tallies: Mutex::new(limits.iter().copied().map(Tally::new).collect()),
            book,
            epoch,
            seed,
            answer_time,
        }
    }

    pub(super) fn into_service(self) -> UpstreamService {
        let model = Arc::new(self);
        UpstreamService::new(service_fn(move |request: Request<Full<Bytes>>| {
            // Counted here and not when the future is polled: the call is the dispatch.
            let ticket = request.extensions().get().copied().unwrap_or(Ticket(0));
            let wait = model.count(ticket);
            let answer_time = model.draw(ticket);
            async move {
                sleep(LATENCY).await;
                let body = match wait {
                    Some(_) => Full::new(Bytes::from_static(REFUSAL))
                        .map_err(|never| match never {})
                        .boxed_unsync(),
                    None => UnsyncBoxBody::new(Answering(Box::pin(sleep(answer_time)))),
                };
                let mut response = Response::new(body);
                if let Some(wait) = wait {
                    *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
                    let seconds = whole_seconds(wait).as_secs();
                    response
                        .headers_mut()
                        .insert(header::RETRY_AFTER, seconds.into());
                }
                Ok::<Response<Body>, BoxError>(response)
            }
        }))
    }

    /// Notes an arrival; how long to wait if it is refused. What is refused counts nowhere.
    fn count(&self, Ticket(asked): Ticket) -> Option<Duration> {
        let at = self.epoch.elapsed();
        let mut tallies = self.tallies.lock();
        let wait = tallies.iter_mut().filter_map(|tally| tally.wait(at)).max();
        if wait.is_none() {
            tallies.iter_mut().for_each(|tally| tally.admit(at));
        }
        self.book.lock().tries.push(Try {
            asked,
            at,
            admitted: wait.is_none(),
        });
        wait
    }

    /// How long the answer takes: exponentially distributed, and the same for a request whatever the
    /// policy.
    fn draw(&self, Ticket(asked): Ticket) -> Duration {
        let asked = self.book.lock().asked.get(asked).copied();
        let request = asked.map_or(0, |asked| asked.request as u64);
        let mut rng = StdRng::seed_from_u64(self.seed.wrapping_add(request));
        // The inverse of the distribution; 1 - x is never zero.
        let times = -(1.0 - rng.random::<f64>()).ln();
        self.answer_time.mul_f64(times.min(LONGEST))
    }
}

/// Neutral: what every dialect takes for "slow down".
const REFUSAL: &[u8] = br#"{"error":{"message":"Too many requests","type":"rate_limit"}}"#;

// === impl Answering ===

impl http_body::Body for Answering {
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
