//! Counts requests and responses.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::response_body::{InFlight, MeteredBody};
use crate::telemetry::metrics::EdgeMetrics;

/// Applies [`Metered`].
#[derive(Clone, Debug)]
pub(super) struct MetricsLayer {
    metrics: Arc<EdgeMetrics>,
}

/// Counts a request as in flight until its response has ended, and the response by its status.
#[derive(Clone, Debug)]
pub(super) struct Metered<S> {
    inner: S,
    metrics: Arc<EdgeMetrics>,
}

pin_project! {
    pub(super) struct ResponseFuture<F> {
        #[pin]
        inner: F,
        in_flight: Option<InFlight>,
    }
}

// === impl MetricsLayer ===

impl MetricsLayer {
    pub(super) fn new(metrics: Arc<EdgeMetrics>) -> Self {
        Self { metrics }
    }
}

impl<S> Layer<S> for MetricsLayer {
    type Service = Metered<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Metered {
            inner,
            metrics: Arc::clone(&self.metrics),
        }
    }
}

// === impl Metered ===

impl<S, B, R> Service<Request<B>> for Metered<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<MeteredBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        ResponseFuture {
            in_flight: Some(InFlight::new(Arc::clone(&self.metrics))),
            inner: self.inner.call(request),
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
        let response = ready!(this.inner.poll(cx))?;
        #[expect(clippy::expect_used, reason = "the contract of Future")]
        let in_flight = this.in_flight.take().expect("polled after ready");
        in_flight.count_response(response.status());
        Poll::Ready(Ok(response.map(|body| MeteredBody::new(body, in_flight))))
    }
}
