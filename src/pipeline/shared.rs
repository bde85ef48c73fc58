//! The one service type between layers.

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

/// A service behind a pointer: whatever layers it is made of, a clone costs one count.
///
/// tower's own `BoxCloneSyncService` copies the box and all boxes in it. Every layer clones what is
/// inside it for each request, so a list of layers would be copied once for each of them.
///
/// It is always ready: readiness is waited for in the response future, by the clone that is called.
#[derive(Clone)]
pub struct SharedService(Arc<dyn CallShared>);

/// The response future of a [`SharedService`].
type ResponseFuture = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

trait CallShared: Send + Sync {
    fn call(&self, request: Request<Full<Bytes>>) -> ResponseFuture;
}

impl SharedService {
    /// Shares `service`.
    pub fn new<S>(service: S) -> Self
    where
        S: Service<Request<Full<Bytes>>, Response = Response<Body>, Error = BoxError>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send,
    {
        Self(Arc::new(service))
    }
}

impl Service<Request<Full<Bytes>>> for SharedService {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> ResponseFuture {
        self.0.call(request)
    }
}

impl fmt::Debug for SharedService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedService")
    }
}

impl<S> CallShared for S
where
    S: Service<Request<Full<Bytes>>, Response = Response<Body>, Error = BoxError>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
{
    fn call(&self, request: Request<Full<Bytes>>) -> ResponseFuture {
        let mut service = self.clone();
        // Nearly always ready at once, and then nothing but its own future has to be kept.
        match service.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => Box::pin(Service::call(&mut service, request)),
            Poll::Ready(Err(error)) => Box::pin(ready(Err(error))),
            Poll::Pending => Box::pin(service.oneshot(request)),
        }
    }
}
