//! The body of an answer on its way to the client.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use pacegate_layers::error::BoxError;
use pin_project_lite::pin_project;
use tracing::{Span, debug, info};

use crate::{server::Connection, telemetry::metrics::EdgeMetrics};

pin_project! {
    /// Streams an answer and knows how it ended.
    ///
    /// If the upstream breaks off, or what is between panics, the client's connection is reset: a
    /// clean end would look like a complete answer, and OpenCode then asks again at once and without
    /// limit.
    #[derive(Debug)]
    pub(crate) struct MeteredBody<B> {
        #[pin]
        inner: B,
        in_flight: InFlight,
        failed: Option<BoxError>,
    }
}

/// One request between its head and the end of its answer, counted as such until dropped.
#[derive(Debug)]
pub(crate) struct InFlight {
    metrics: Arc<EdgeMetrics>,
    connection: Option<Connection>,
    span: Span,
    sent: u64,
}

/// Something in the pipeline panicked while the answer was on its way.
#[derive(Debug, thiserror::Error)]
#[error("a panic, see above")]
struct Panicked;

// === impl InFlight ===

impl InFlight {
    pub(crate) fn new(metrics: Arc<EdgeMetrics>, connection: Option<Connection>) -> Self {
        metrics.in_flight.inc();
        if let Some(connection) = &connection {
            connection.begin_answer();
        }
        Self {
            metrics,
            connection,
            span: Span::current(),
            sent: 0,
        }
    }

    /// Its answer begins, with `status`.
    pub(crate) fn count_answer(&self, status: StatusCode) {
        self.metrics.count_answer(status);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        debug!(parent: &self.span, sent = self.sent, "ErrorResponse ended");
        self.metrics.in_flight.dec();
        if let Some(connection) = &self.connection {
            connection.end_answer();
        }
    }
}

// === impl MeteredBody ===

impl<B> MeteredBody<B> {
    pub(crate) fn new(inner: B, in_flight: InFlight) -> Self {
        Self {
            inner,
            in_flight,
            failed: None,
        }
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
        if let Some(error) = this.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        match ready!(poll_caught(this.inner.as_mut(), cx)) {
            Some(Ok(frame)) => {
                this.in_flight.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                info!(
                    parent: &this.in_flight.span,
                    sent = this.in_flight.sent,
                    %error,
                    "Stream broke off, resetting the client's connection"
                );
                this.in_flight.metrics.aborted.inc();
                if let Some(connection) = &this.in_flight.connection {
                    connection.reset_at_the_end();
                }
                *this.failed = Some(error);
                // One round for hyper to write out what came before the break.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.failed.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// What `body` has, or [`Panicked`]; a body that has panicked is not polled again.
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
