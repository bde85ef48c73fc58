//! What is noted of every request, and what every answer says of itself.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response};
use pacegate_layers::progress::Progress;
use pin_project_lite::pin_project;
use tower::{Layer, Service};
use tracing::{Span, debug, debug_span};
use uuid::{Uuid, fmt::Hyphenated};

use super::{
    outgoing::{InFlight, Outgoing},
    session::session,
    wire::Connection,
};
use crate::{body::Body, metrics::EdgeMetrics};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_PACEGATE_ATTEMPTS: HeaderName = HeaderName::from_static("x-pacegate-attempts");
const X_PACEGATE_QUEUED_MS: HeaderName = HeaderName::from_static("x-pacegate-queued-ms");

/// Applies [`Observe`].
#[derive(Clone, Debug)]
pub(super) struct ObserveLayer {
    metrics: Arc<EdgeMetrics>,
}

/// Names a request that has no id, counts it from its head to the end of its answer, gives it a span
/// and a [`Progress`], and writes what that says into the answer's headers.
#[derive(Clone, Debug)]
pub(super) struct Observe<S> {
    inner: S,
    metrics: Arc<EdgeMetrics>,
}

pin_project! {
    pub(super) struct ResponseFuture<F> {
        #[pin]
        inner: F,
        in_flight: Option<InFlight>,
        span: Span,
        progress: Progress,
        id: Option<HeaderValue>,
    }
}

// === impl ObserveLayer ===

impl ObserveLayer {
    pub(super) fn new(metrics: Arc<EdgeMetrics>) -> Self {
        Self { metrics }
    }
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observe<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Observe {
            inner,
            metrics: Arc::clone(&self.metrics),
        }
    }
}

// === impl Observe ===

impl<S, B> Service<Request<B>> for Observe<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Outgoing>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let id = request.headers_mut().entry(X_REQUEST_ID);
        let id = id.or_insert_with(new_id).clone();
        let span = debug_span!(
            "request",
            id = id.to_str().ok(),
            method = %request.method(),
            path = request.uri().path(),
        );
        let connection = request.extensions().get::<Connection>().cloned();
        let progress = Progress::of(session(request.headers(), connection.as_ref()));
        request.extensions_mut().insert(progress.clone());
        let in_flight = InFlight::new(Arc::clone(&self.metrics), connection, span.clone());
        let inner = span.in_scope(|| self.inner.call(request));
        ResponseFuture {
            inner,
            in_flight: Some(in_flight),
            span,
            progress,
            id: Some(id),
        }
    }
}

#[expect(clippy::expect_used, reason = "hexadecimal digits and hyphens")]
fn new_id() -> HeaderValue {
    let mut text = [0; Hyphenated::LENGTH];
    Uuid::new_v4().as_hyphenated().encode_lower(&mut text);
    // Shared from the start: it is sent both ways.
    HeaderValue::from_maybe_shared(Bytes::from_owner(text)).expect("a value")
}

// === impl ResponseFuture ===

impl<F, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = Result<Response<Outgoing>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let _entered_for_this_poll = this.span.enter();
        let mut response = ready!(this.inner.poll(cx))?;
        let status = response.status();
        let queued = this.progress.queued();
        let attempts = this.progress.attempts();
        debug!(status = status.as_u16(), attempts, ?queued, "Answering");
        #[expect(clippy::expect_used, reason = "the contract of Future")]
        let in_flight = this.in_flight.take().expect("polled after ready");
        in_flight.count_answer(status);

        let headers = response.headers_mut();
        headers.insert(X_PACEGATE_ATTEMPTS, number(attempts.into()));
        let queued = u64::try_from(queued.as_millis()).unwrap_or(u64::MAX);
        headers.insert(X_PACEGATE_QUEUED_MS, number(queued));
        if let Some(id) = this.id.take() {
            // The upstream's own id stays: its support asks for that one.
            headers.entry(X_REQUEST_ID).or_insert(id);
        }
        Poll::Ready(Ok(response.map(|body| Outgoing::new(body, in_flight))))
    }
}

/// Nearly every answer has taken one attempt and no time in the queue: those need no memory.
fn number(number: u64) -> HeaderValue {
    match number {
        0 => HeaderValue::from_static("0"),
        1 => HeaderValue::from_static("1"),
        _ => HeaderValue::from(number),
    }
}
