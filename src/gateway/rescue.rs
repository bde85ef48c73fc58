//! Turns every error into an answer.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::Response;
use pacegate_layers::error::BoxError;
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::answer::Answer;
use crate::body::Body;

/// Applies [`Rescue`].
#[derive(Clone, Copy, Debug)]
pub(super) struct RescueLayer;

/// A service that never fails: what its inner service says as an error, it says as an answer.
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

impl<S, R> Service<R> for Rescue<S>
where
    S: Service<R, Response = Response<Body>, Error = BoxError>,
{
    type Response = Response<Body>;
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

impl<F> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<Body>, BoxError>>,
{
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = ready!(self.project().inner.poll(cx));
        Poll::Ready(Ok(outcome.unwrap_or_else(|error| {
            Answer::from_error(&*error).into_response()
        })))
    }
}
