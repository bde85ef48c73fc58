//! Sends each request with the token that is valid when the request leaves.
//!
//! [`BearerAuth`] asks a [`TokenSource`] for a token whenever it is polled for readiness, and sets
//! `Authorization` to it, marked sensitive. It is ready once it has a token, so a request that gets
//! its turn in a layer outside leaves at once, with the newest token. If the response is no success, the token used goes into its extensions, where
//! [`TokenRefresh`](crate::TokenRefreshLayer) finds it.
//!
//! It refreshes nothing and does not read the response.
//!
//! # Ordering
//!
//! Inside [`JitterThrottle`](crate::JitterThrottleLayer), because a token read before the wait may
//! be stale after it; inside [`HeaderAlign`](crate::HeaderAlignLayer), which strips
//! `Authorization`; inside [`TokenRefresh`](crate::TokenRefreshLayer), which needs the token used.
//!
//! # Examples
//!
//! ```
//! use http::{Request, Response};
//! use pacegate_layers::{BearerAuthLayer, token::StaticToken};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! let layer = BearerAuthLayer::new(StaticToken::new("sk-example")?);
//! let service = layer.layer(service_fn(|request: Request<()>| async move {
//!     assert_eq!(request.headers()["authorization"], "Bearer sk-example");
//!     Ok::<_, std::convert::Infallible>(Response::new(()))
//! }));
//! service.oneshot(Request::new(())).await?;
//! # Ok(())
//! # }
//! ```

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Request, Response, header};
use parking_lot::Mutex;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    error::{BoxError, Stale},
    token::{BearerToken, TokenFuture, TokenSource},
};

/// Applies [`BearerAuth`]; see the [module documentation](self).
#[derive(Clone, Debug)]
pub struct BearerAuthLayer<T> {
    source: T,
}

/// Sets `Authorization` on each request; see the [module documentation](self).
#[derive(Debug)]
pub struct BearerAuth<S, T> {
    inner: S,
    source: T,
    /// A token on its way. A mutex that is never locked makes it `Sync`.
    wait: Mutex<Option<TokenFuture>>,
    /// The token of the next request.
    token: Option<BearerToken>,
}

pin_project! {
    /// The response future of [`BearerAuth`].
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F> {
        // Called without having been ready.
        NotReady,
        Call {
            #[pin]
            response: F,
            token: BearerToken,
        },
    }
}

// === impl BearerAuthLayer ===

impl<T> BearerAuthLayer<T> {
    /// Takes tokens from `source`.
    pub fn new(source: T) -> Self {
        Self { source }
    }
}

impl<S, T: Clone> Layer<S> for BearerAuthLayer<T> {
    type Service = BearerAuth<S, T>;

    fn layer(&self, inner: S) -> Self::Service {
        BearerAuth {
            inner,
            source: self.source.clone(),
            wait: Mutex::default(),
            token: None,
        }
    }
}

// === impl BearerAuth ===

impl<S, T, B, R> Service<Request<B>> for BearerAuth<S, T>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    T: TokenSource,
{
    type Response = Response<R>;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    /// Ready once the inner service is ready and a token is in hand that is valid now.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // Both are polled, so that neither waits for the other.
        let inner = self.inner.poll_ready(cx).map_err(Into::into)?;
        // Asked anew each time: a token in hand may have been replaced, or be no longer valid.
        let stored = self.wait.get_mut();
        let mut wait = stored.take().unwrap_or_else(|| self.source.token());
        self.token = wait.take_ready();
        if self.token.is_none() {
            match Pin::new(&mut wait).poll(cx)? {
                Poll::Ready(token) => self.token = Some(token),
                Poll::Pending => {
                    *stored = Some(wait);
                    return Poll::Pending;
                }
            }
        }
        inner.map(Ok)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let state = match self.token.take() {
            Some(token) => {
                let authorization = token.header().clone();
                request
                    .headers_mut()
                    .insert(header::AUTHORIZATION, authorization);
                State::Call {
                    response: self.inner.call(request),
                    token,
                }
            }
            None => State::NotReady,
        };
        ResponseFuture { state }
    }
}

impl<S: Clone, T: Clone> Clone for BearerAuth<S, T> {
    /// The clone is not ready.
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            source: self.source.clone(),
            wait: Mutex::default(),
            token: None,
        }
    }
}

// === impl ResponseFuture ===

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<R>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::NotReady => Poll::Ready(Err(Stale.into())),
            StateProjection::Call { response, token } => {
                let mut response = ready!(response.poll(cx)).map_err(Into::into)?;
                if !response.status().is_success() {
                    response.extensions_mut().insert(token.clone());
                }
                Poll::Ready(Ok(response))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::sync::oneshot;
    use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
    use tower::{ServiceExt, service_fn};
    use tower_test::mock;

    use super::*;
    use crate::token::TokenError;

    /// Returns the token that was put in last.
    #[derive(Clone)]
    struct Latest(Arc<Mutex<BearerToken>>);

    impl TokenSource for Latest {
        fn token(&self) -> TokenFuture {
            TokenFuture::ready(Ok(self.0.lock().unwrap().clone()))
        }

        fn refresh(&self, _stale: &BearerToken) -> TokenFuture {
            self.token()
        }
    }

    /// Returns a token once the sender has sent one.
    struct Later(Mutex<Option<oneshot::Receiver<BearerToken>>>);

    impl TokenSource for Later {
        fn token(&self) -> TokenFuture {
            let receiver = self.0.lock().unwrap().take().unwrap();
            TokenFuture::wait(async move {
                receiver
                    .await
                    .map_err(|error| TokenError::Unavailable(error.into()))
            })
        }

        fn refresh(&self, _stale: &BearerToken) -> TokenFuture {
            self.token()
        }
    }

    type Inner = mock::Mock<Request<()>, Response<()>>;

    #[tokio::test]
    async fn replaces_what_the_client_sent_and_marks_it_sensitive() {
        let source = Latest(Arc::new(Mutex::new(BearerToken::new("ours", 1).unwrap())));
        let (inner, mut upstream): (Inner, _) = mock::pair();
        let mut service = mock::Spawn::new(BearerAuthLayer::new(source).layer(inner));
        assert_ready_ok!(service.poll_ready());

        let request = Request::builder()
            .header("authorization", "Bearer theirs")
            .body(())
            .unwrap();
        let mut response = task::spawn(service.call(request));
        assert_pending!(response.poll());

        let (request, responder) = upstream.next_request().await.unwrap();
        let values: Vec<_> = request.headers().get_all("authorization").iter().collect();
        assert_eq!(values, ["Bearer ours"]);
        assert!(values[0].is_sensitive());
        responder.send_response(Response::new(()));
        assert_ready_ok!(response.poll());
    }

    #[tokio::test]
    async fn a_response_without_success_carries_the_token_used() {
        for (status, generation) in [(200, None), (401, Some(1)), (503, Some(1))] {
            let source = Latest(Arc::new(Mutex::new(BearerToken::new("ours", 1).unwrap())));
            let inner = service_fn(move |_: Request<()>| {
                std::future::ready(Response::builder().status(status).body(()))
            });
            let service = BearerAuthLayer::new(source).layer(inner);
            let response = service.oneshot(Request::new(())).await.unwrap();
            let token = response.extensions().get::<BearerToken>();
            assert_eq!(token.map(BearerToken::generation), generation, "{status}");
        }
    }

    #[tokio::test]
    async fn sends_nothing_before_the_token_is_there() {
        let (sender, receiver) = oneshot::channel();
        let source = Arc::new(Later(Mutex::new(Some(receiver))));
        let (inner, mut upstream): (Inner, _) = mock::pair();
        let mut service = mock::Spawn::new(BearerAuthLayer::new(source).layer(inner));
        assert_pending!(service.poll_ready());
        sender.send(BearerToken::new("late", 1).unwrap()).unwrap();
        assert!(service.is_woken());
        assert_ready_ok!(service.poll_ready());
        let mut response = task::spawn(service.call(Request::new(())));
        assert_pending!(response.poll());
        let (request, _responder) = upstream.next_request().await.unwrap();
        assert_eq!(request.headers()["authorization"], "Bearer late");
    }

    #[tokio::test]
    async fn a_source_without_a_token_is_an_error_and_nothing_is_sent() {
        let (sender, receiver) = oneshot::channel();
        drop(sender);
        let source = Arc::new(Later(Mutex::new(Some(receiver))));
        let (inner, mut upstream): (Inner, _) = mock::pair();
        let mut service = mock::Spawn::new(BearerAuthLayer::new(source).layer(inner));
        let error = assert_ready_err!(service.poll_ready());
        assert!(matches!(
            error.downcast_ref(),
            Some(TokenError::Unavailable(_))
        ));
        assert_pending!(upstream.poll_request());
    }

    #[tokio::test]
    async fn a_token_that_is_replaced_while_the_request_waits_is_not_sent() {
        let source = Latest(Arc::new(Mutex::new(BearerToken::new("old", 1).unwrap())));
        let (inner, mut upstream): (Inner, _) = mock::pair();
        let mut service = mock::Spawn::new(BearerAuthLayer::new(source.clone()).layer(inner));
        assert_ready_ok!(service.poll_ready());
        *source.0.lock().unwrap() = BearerToken::new("new", 2).unwrap();
        assert_ready_ok!(service.poll_ready());
        let mut response = task::spawn(service.call(Request::new(())));
        assert_pending!(response.poll());
        let (request, _responder) = upstream.next_request().await.unwrap();
        assert_eq!(request.headers()["authorization"], "Bearer new");
    }

    #[tokio::test]
    async fn a_clone_is_not_ready() {
        let source = Latest(Arc::new(Mutex::new(BearerToken::new("ours", 1).unwrap())));
        let inner =
            service_fn(|_: Request<()>| std::future::ready(Ok::<_, BoxError>(Response::new(()))));
        let mut service = BearerAuthLayer::new(source).layer(inner);
        let _ready = service.ready().await.unwrap();
        let error = service.clone().call(Request::new(())).await.unwrap_err();
        assert!(error.is::<Stale>());
    }
}
