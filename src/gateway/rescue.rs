//! Turns every error, and every panic, into an answer.

use std::{
    convert::Infallible,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
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

/// A service that never fails: what its inner service says as an error, it says as an answer. A panic
/// in there costs the one request, not the process.
#[derive(Clone, Debug)]
pub(super) struct Rescue<S> {
    inner: S,
}

pin_project! {
    pub(super) struct ResponseFuture<F> {
        // None where the call itself has panicked.
        #[pin]
        inner: Option<F>,
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
        let call = AssertUnwindSafe(|| self.inner.call(request));
        ResponseFuture {
            inner: catch_unwind(call).ok(),
        }
    }
}

impl<F> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<Body>, BoxError>>,
{
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let inner = self.project().inner.as_pin_mut();
        let poll = inner.and_then(|inner| catch_unwind(AssertUnwindSafe(|| inner.poll(cx))).ok());
        let answer = match poll {
            Some(poll) => {
                ready!(poll).unwrap_or_else(|error| Answer::from_error(&*error).into_response())
            }
            None => Answer::internal().into_response(),
        };
        Poll::Ready(Ok(answer))
    }
}
