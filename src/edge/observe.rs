//! Counts requests, and says in every answer how it came about.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{HeaderName, Request, Response};
use pacegate_layers::context::RequestContext;
use pin_project_lite::pin_project;
use tower::{Layer, Service};
use tracing::debug;

use super::{
    response_body::{InFlight, MeteredBody},
    session::session,
};
use crate::{server::Connection, telemetry::metrics::EdgeMetrics};

const X_PACEGATE_ATTEMPTS: HeaderName = HeaderName::from_static("x-pacegate-attempts");
const X_PACEGATE_QUEUED_MS: HeaderName = HeaderName::from_static("x-pacegate-queued-ms");

/// Applies [`Observe`].
#[derive(Clone, Debug)]
pub(super) struct ObserveLayer {
    metrics: Arc<EdgeMetrics>,
}

/// Counts a request from its head to the end of its answer, gives it a [`RequestContext`], and writes what
/// that says into the answer's headers.
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
        context: RequestContext,
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

impl<S, B, R> Service<Request<B>> for Observe<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<MeteredBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let connection = request.extensions().get::<Connection>().cloned();
        let context = RequestContext::of(session(request.headers(), connection.as_ref()));
        request.extensions_mut().insert(context.clone());
        let in_flight = InFlight::new(Arc::clone(&self.metrics), connection);
        ResponseFuture {
            inner: self.inner.call(request),
            in_flight: Some(in_flight),
            context,
        }
    }
}

// === impl ResponseFuture ===

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<MeteredBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.inner.poll(cx))?;
        let status = response.status();
        let queued = this.context.queued();
        let attempts = this.context.attempts();
        debug!(status = status.as_u16(), attempts, ?queued, "Answering");
        #[expect(clippy::expect_used, reason = "the contract of Future")]
        let in_flight = this.in_flight.take().expect("polled after ready");
        in_flight.count_answer(status);

        let headers = response.headers_mut();
        headers.insert(X_PACEGATE_ATTEMPTS, attempts.into());
        let queued = u64::try_from(queued.as_millis()).unwrap_or(u64::MAX);
        headers.insert(X_PACEGATE_QUEUED_MS, queued.into());
        Poll::Ready(Ok(response.map(|body| MeteredBody::new(body, in_flight))))
    }
}
