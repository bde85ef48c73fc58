//! Counts requests and responses, and watches how a response body ends.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use pacegate_layers::error::BoxError;
use pin_project_lite::pin_project;
use tower::{Layer, Service};
use tracing::{Span, debug, info};

use super::rescue::late_event;
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

pin_project! {
    /// Streams a response and counts it as in flight until its end. A panic in the inner body
    /// becomes an error, for which the server resets the connection; an error that says that the
    /// request failed late becomes the last event.
    #[derive(Debug)]
    pub(super) struct MeteredBody<B> {
        #[pin]
        inner: B,
        in_flight: InFlight,
    }
}

/// A request in flight, counted from its head to the end of its response.
#[derive(Debug)]
pub(super) struct InFlight {
    metrics: Arc<EdgeMetrics>,
    span: Span,
    sent: u64,
}

/// The pipeline panicked while the response was being sent.
#[derive(Debug, thiserror::Error)]
#[error("a panic, see above")]
struct Panicked;

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

// === impl InFlight ===

impl InFlight {
    fn new(metrics: Arc<EdgeMetrics>) -> Self {
        metrics.in_flight.inc();
        Self {
            metrics,
            span: Span::current(),
            sent: 0,
        }
    }

    /// The response begins, with `status`.
    fn count_response(&self, status: StatusCode) {
        self.metrics.count_response(status);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        debug!(parent: &self.span, sent = self.sent, "Answer ended");
        self.metrics.in_flight.dec();
    }
}

// === impl MeteredBody ===

impl<B> MeteredBody<B> {
    fn new(inner: B, in_flight: InFlight) -> Self {
        Self { inner, in_flight }
    }
}

impl<B> Body for MeteredBody<B>
where
    B: Body<Data = Bytes, Error = BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        let mut frame = ready!(poll_caught(this.inner.as_mut(), cx));
        if let Some(Err(error)) = &frame
            && let Some(event) = late_event(error)
        {
            frame = Some(Ok(Frame::data(event)));
        }
        match &frame {
            Some(Ok(frame)) => {
                this.in_flight.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
            }
            Some(Err(error)) => {
                info!(
                    parent: &this.in_flight.span,
                    sent = this.in_flight.sent,
                    %error,
                    "Stream broke off, resetting the client's connection"
                );
                this.in_flight.metrics.aborted.inc();
            }
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The next frame of `body`, or [`Panicked`]; a body that has panicked must not be polled again.
fn poll_caught<B>(
    body: Pin<&mut B>,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, BoxError>>>
where
    B: Body<Data = Bytes, Error = BoxError>,
{
    catch_unwind(AssertUnwindSafe(|| body.poll_frame(cx)))
        .unwrap_or_else(|_payload| Poll::Ready(Some(Err(Panicked.into()))))
}
