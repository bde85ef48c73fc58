//! A response body on its way to the client: how it ends decides how the connection ends.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pacegate_layers::error::BoxError;
use pin_project_lite::pin_project;

use super::connection::ResponseGuard;

pin_project! {
    /// Keeps the connection busy until the response has ended, and resets it if the body fails.
    pub(super) struct ServedBody<B> {
        #[pin]
        inner: B,
        guard: ResponseGuard,
        failed: Option<BoxError>,
    }
}

impl<B> ServedBody<B> {
    pub(super) fn new(inner: B, guard: ResponseGuard) -> Self {
        Self {
            inner,
            guard,
            failed: None,
        }
    }
}

impl<B> Body for ServedBody<B>
where
    B: Body<Data = Bytes, Error = BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        if let Some(error) = this.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        match ready!(this.inner.poll_frame(cx)) {
            Some(Err(error)) => {
                this.guard.reset_on_close();
                *this.failed = Some(error);
                // While the body is pending, hyper writes the data before the error.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            frame => Poll::Ready(frame),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.failed.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
