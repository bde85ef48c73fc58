//! The service type around all layers of an upstream.

use std::{
    fmt,
    future::{Future, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use pacegate_layers::error::BoxError;
use tower::{Service, ServiceExt};

use crate::body::Body;

/// A service behind an `Arc`: whatever its layers, a clone costs one reference count.
///
/// tower's own `BoxCloneSyncService` copies the box and all boxes inside it. Every layer clones its
/// inner service for each request, so a stack would be copied once for each of its layers.
///
/// It is always ready: the clone that is called awaits readiness in the response future.
pub struct ArcService<R, T, E>(Arc<dyn CallArc<R, T, E>>);

/// A pipeline, or the client at its end.
pub type UpstreamService = ArcService<Request<Full<Bytes>>, Response<Body>, BoxError>;

/// The response future of an [`ArcService`].
pub type ServiceFuture<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

trait CallArc<R, T, E>: Send + Sync {
    fn call(&self, request: R) -> ServiceFuture<T, E>;
}

impl<R, T, E> ArcService<R, T, E> {
    /// Puts `service` behind an `Arc`.
    pub fn new<S>(service: S) -> Self
    where
        S: Service<R, Response = T, Error = E> + Clone + Send + Sync + 'static,
        S::Future: Send,
        R: Send + 'static,
        T: Send + 'static,
        E: Send + 'static,
    {
        Self(Arc::new(service))
    }
}

impl<R, T, E> Clone for ArcService<R, T, E> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<R, T, E> Service<R> for ArcService<R, T, E> {
    type Response = T;
    type Error = E;
    type Future = ServiceFuture<T, E>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), E>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> Self::Future {
        self.0.call(request)
    }
}

impl<R, T, E> fmt::Debug for ArcService<R, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ArcService")
    }
}

impl<S, R, T, E> CallArc<R, T, E> for S
where
    S: Service<R, Response = T, Error = E> + Clone + Send + Sync + 'static,
    S::Future: Send,
    R: Send + 'static,
    T: Send + 'static,
    E: Send + 'static,
{
    fn call(&self, request: R) -> ServiceFuture<T, E> {
        let mut service = self.clone();
        // Nearly always ready at once; then the future stores only the inner future.
        match service.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => Box::pin(Service::call(&mut service, request)),
            Poll::Ready(Err(error)) => Box::pin(ready(Err(error))),
            Poll::Pending => Box::pin(service.oneshot(request)),
        }
    }
}
