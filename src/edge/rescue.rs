//! Turns every error into a response, or into the last event of a stream that has begun.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Response;
use http_body::{Frame, SizeHint};
use http_body_util::Either;
use pacegate_layers::error::BoxError;
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::rescue_table::to_response;
use crate::{body::Body, upstreams::LateError};

/// Applies [`Rescue`].
#[derive(Clone, Copy, Debug)]
pub(super) struct RescueLayer;

/// A service that never fails: an error of its inner service becomes a response.
#[derive(Clone, Debug)]
pub(super) struct Rescue<S> {
    inner: S,
}

pin_project! {
    pub(super) struct ResponseFuture<F> {
        #[pin]
        inner: F,
    }
}

pin_project! {
    /// A body in which a [`LateError`] becomes the last event. Other errors pass unchanged.
    pub(super) struct RescuedBody<B> {
        #[pin]
        inner: B,
        ended: bool,
    }
}

// === impl RescueLayer ===

impl<S> Layer<S> for RescueLayer {
    type Service = Rescue<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Rescue { inner }
    }
}

// === impl Rescue ===

impl<S, R, B> Service<R> for Rescue<S>
where
    S: Service<R, Response = Response<B>, Error = BoxError>,
{
    type Response = Response<Either<RescuedBody<B>, Body>>;
    type Error = Infallible;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Everything inside is always ready, and an error needs a request to respond to.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> Self::Future {
        ResponseFuture {
            inner: self.inner.call(request),
        }
    }
}

// === impl ResponseFuture ===

impl<F, B> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, BoxError>>,
{
    type Output = Result<Response<Either<RescuedBody<B>, Body>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(match ready!(self.project().inner.poll(cx)) {
            Ok(response) => response.map(|inner| {
                let ended = false;
                Either::Left(RescuedBody { inner, ended })
            }),
            Err(error) => to_response(&*error).into_response().map(Either::Right),
        }))
    }
}

// === impl RescuedBody ===

impl<B> http_body::Body for RescuedBody<B>
where
    B: http_body::Body<Data = Bytes, Error = BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        if *this.ended {
            return Poll::Ready(None);
        }
        let frame = ready!(this.inner.poll_frame(cx));
        let Some(Err(error)) = &frame else {
            return Poll::Ready(frame);
        };
        let Some(LateError(late)) = error.downcast_ref() else {
            return Poll::Ready(frame);
        };
        *this.ended = true;
        let event = to_response(&**late).into_event();
        Poll::Ready(Some(Ok(Frame::data(event))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
