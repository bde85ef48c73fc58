//! Gives each request its [`RequestContext`], and its totals to the response headers.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, HeaderName, Request, Response};
use pacegate_layers::context::{RequestContext, Session};
use pin_project_lite::pin_project;
use tower::{Layer, Service};
use tracing::debug;

use crate::server::Connection;

const X_PACEGATE_ATTEMPTS: HeaderName = HeaderName::from_static("x-pacegate-attempts");
const X_PACEGATE_QUEUED_MS: HeaderName = HeaderName::from_static("x-pacegate-queued-ms");
const X_SESSION_ID: HeaderName = HeaderName::from_static("x-session-id");
const X_PARENT_SESSION_ID: HeaderName = HeaderName::from_static("x-parent-session-id");

/// Applies [`WithContext`].
#[derive(Clone, Copy, Debug)]
pub(super) struct ContextLayer;

/// Adds a [`RequestContext`] with the client's session to each request, and its totals to the
/// response headers.
#[derive(Clone, Debug)]
pub(super) struct WithContext<S> {
    inner: S,
}

pin_project! {
    pub(super) struct ResponseFuture<F> {
        #[pin]
        inner: F,
        context: RequestContext,
    }
}

impl<S> Layer<S> for ContextLayer {
    type Service = WithContext<S>;

    fn layer(&self, inner: S) -> Self::Service {
        WithContext { inner }
    }
}

impl<S, B, R> Service<Request<B>> for WithContext<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let connection = request.extensions().get::<Connection>();
        let context = RequestContext::of(session(request.headers(), connection));
        request.extensions_mut().insert(context.clone());
        ResponseFuture {
            inner: self.inner.call(request),
            context,
        }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.inner.poll(cx))?;
        let (attempts, queued) = (this.context.attempts(), this.context.queued());
        debug!(
            status = response.status().as_u16(),
            upstream = this.context.upstream(),
            attempts,
            ?queued,
            "Answering"
        );
        let headers = response.headers_mut();
        headers.insert(X_PACEGATE_ATTEMPTS, attempts.into());
        let queued = u64::try_from(queued.as_millis()).unwrap_or(u64::MAX);
        headers.insert(X_PACEGATE_QUEUED_MS, queued.into());
        Poll::Ready(Ok(response))
    }
}

/// The session that OpenCode names, and its parent; without a name, the connection.
fn session(headers: &HeaderMap, connection: Option<&Connection>) -> Session {
    let named = |name: HeaderName| headers.get(name)?.to_str().ok();
    let session = match (named(X_SESSION_ID), connection) {
        (Some(id), _) => Session::new(id),
        (None, Some(connection)) => Session::new(Arc::clone(connection.name())),
        (None, None) => Session::new(""),
    };
    match named(X_PARENT_SESSION_ID) {
        Some(parent) => session.child_of(parent),
        None => session,
    }
}
