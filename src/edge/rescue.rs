//! Turns every error into a response, or into the last event of a stream that has begun.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Response;
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
    type Response = Response<Either<B, Body>>;
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
    type Output = Result<Response<Either<B, Body>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(match ready!(self.project().inner.poll(cx)) {
            Ok(response) => response.map(Either::Left),
            Err(error) => to_response(&*error).into_response().map(Either::Right),
        }))
    }
}

/// The last event of a stream that failed with `error`, if that is a [`LateError`].
pub(super) fn late_event(error: &BoxError) -> Option<Bytes> {
    let LateError(late) = error.downcast_ref()?;
    Some(to_response(&**late).into_event())
}
