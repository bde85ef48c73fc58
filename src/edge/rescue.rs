//! Turns every error into an answer.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::Response;
use http_body_util::Either;
use pacegate_layers::error::BoxError;
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::rescue_table::ErrorResponse;
use crate::body::Body;

/// Applies [`Rescue`].
#[derive(Clone, Copy, Debug)]
pub(super) struct RescueLayer;

/// A service that never fails: an error of its inner service becomes an answer.
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

impl<S> Layer<S> for RescueLayer {
    type Service = Rescue<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Rescue { inner }
    }
}

impl<S, R, B> Service<R> for Rescue<S>
where
    S: Service<R, Response = Response<B>, Error = BoxError>,
{
    type Response = Response<Either<B, Body>>;
    type Error = Infallible;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Everything inside is ready at once, and an error has to wait for a request to answer.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> Self::Future {
        ResponseFuture {
            inner: self.inner.call(request),
        }
    }
}

impl<F, B> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, BoxError>>,
{
    type Output = Result<Response<Either<B, Body>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(match ready!(self.project().inner.poll(cx)) {
            Ok(response) => response.map(Either::Left),
            Err(error) => ErrorResponse::from_error(&*error)
                .into_response()
                .map(Either::Right),
        }))
    }
}
