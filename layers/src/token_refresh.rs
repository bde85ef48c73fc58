//! Replaces a refused token and replays the request once.
//!
//! When the response is 401 (or another configured status), [`TokenRefresh`] asks the
//! [`TokenSource`] to replace *the token that this request carried*, and replays the request once
//! if the source returns a different one. The token is in the response's extensions, where
//! [`BearerAuth`](crate::BearerAuthLayer) put it; a response without one passes unchanged.
//!
//! Ten simultaneous refusals call the source ten times: that callers of one generation share a
//! refresh is the contract of [`TokenSource::refresh`]. A request is never replayed twice. If a
//! refresh fails for now, or the source declines it, the client gets the upstream's own response.
//! How often a source refreshes is up to the source: this layer asks it at every refusal, and tells
//! it when a replay succeeds.
//!
//! # Ordering
//!
//! Outside [`BearerAuth`](crate::BearerAuthLayer), which sets the new token on the replay; without
//! it this layer does nothing. Outside [`JitterThrottle`](crate::JitterThrottleLayer), so that the
//! replay takes its turn as well. Inside [`RetryOn429`](crate::RetryOn429Layer), so that a replay
//! that is refused with 429 is retried.
//!
//! # Examples
//!
//! ```
//! use pacegate_layers::{TokenRefreshLayer, token::StaticToken};
//!
//! # fn main() -> Result<(), pacegate_layers::token::InvalidToken> {
//! let source = StaticToken::new("sk-example")?;
//! let only_401 = TokenRefreshLayer::new(source.clone());
//! let also_403 = TokenRefreshLayer::new(source).refresh_on([401, 403]);
//! # let _ = (only_401, also_403);
//! # Ok(())
//! # }
//! ```

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response, StatusCode};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;
use tracing::{debug, warn};

use crate::{
    error::BoxError,
    token::{BearerToken, TokenError, TokenFuture, TokenSource},
};

/// Applies [`TokenRefresh`]; see the [module documentation](self).
#[derive(Clone, Debug)]
pub struct TokenRefreshLayer<T> {
    source: T,
    statuses: Arc<[u16]>,
}

/// Replays a request whose token was refused; see the [module documentation](self).
#[derive(Clone, Debug)]
pub struct TokenRefresh<S, T> {
    inner: S,
    source: T,
    statuses: Arc<[u16]>,
}

pin_project! {
    /// The response future of [`TokenRefresh`].
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, T, B>
    where
        S: Service<Request<B>>,
    {
        inner: S,
        source: T,
        statuses: Arc<[u16]>,
        // The request to replay, until it is sent.
        replay: Option<Request<B>>,
        #[pin]
        state: State<S::Future, S::Response>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F, R> {
        First {
            #[pin]
            response: F,
        },
        Refresh {
            #[pin]
            token: TokenFuture,
            stale: BearerToken,
            refusal: Option<R>,
        },
        Ready {
            fresh: BearerToken,
        },
        Replay {
            #[pin]
            response: F,
            fresh: BearerToken,
        },
    }
}

// === impl TokenRefreshLayer ===

impl<T> TokenRefreshLayer<T> {
    /// Refreshes at `source` when a response is 401.
    pub fn new(source: T) -> Self {
        Self {
            source,
            statuses: Arc::new([StatusCode::UNAUTHORIZED.as_u16()]),
        }
    }

    /// The statuses that mean that the token was refused, instead of 401 alone. A success never
    /// means it.
    #[must_use]
    pub fn refresh_on(mut self, statuses: impl IntoIterator<Item = u16>) -> Self {
        self.statuses = statuses.into_iter().collect();
        self
    }
}

impl<S, T: Clone> Layer<S> for TokenRefreshLayer<T> {
    type Service = TokenRefresh<S, T>;

    fn layer(&self, inner: S) -> Self::Service {
        TokenRefresh {
            inner,
            source: self.source.clone(),
            statuses: Arc::clone(&self.statuses),
        }
    }
}

// === impl TokenRefresh ===

impl<S, T, B, R> Service<Request<B>> for TokenRefresh<S, T>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    T: TokenSource + Clone,
    B: Clone,
{
    type Response = Response<R>;
    type Error = BoxError;
    type Future = ResponseFuture<S, T, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The ready service goes into the future; its fresh clone has not been polled.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        let replay = Some(request.clone());
        let response = inner.call(request);
        ResponseFuture {
            inner,
            source: self.source.clone(),
            statuses: Arc::clone(&self.statuses),
            replay,
            state: State::First { response },
        }
    }
}

// === impl ResponseFuture ===

impl<S, T, B, R> Future for ResponseFuture<S, T, B>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    T: TokenSource,
{
    type Output = Result<Response<R>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProjection::First { response } => {
                    let response = ready!(response.poll(cx)).map_err(Into::into)?;
                    let refused = this.statuses.contains(&response.status().as_u16());
                    let carried = response.extensions().get::<BearerToken>();
                    let (true, Some(stale)) = (refused, carried) else {
                        return Poll::Ready(Ok(response));
                    };
                    let stale = stale.clone();
                    debug!(status = %response.status(), "Token refused");
                    this.state.set(State::Refresh {
                        token: this.source.refresh(&stale),
                        stale,
                        refusal: Some(response),
                    });
                }
                StateProjection::Refresh {
                    token,
                    stale,
                    refusal,
                } => {
                    let fresh = match ready!(token.poll(cx)) {
                        Ok(token) => Some(token),
                        Err(error @ TokenError::LoginRequired(_)) => {
                            return Poll::Ready(Err(error.into()));
                        }
                        Err(error) => {
                            warn!(%error, "Token not refreshed");
                            None
                        }
                    };
                    let fresh = fresh.filter(|it| it.generation() != stale.generation());
                    let Some(fresh) = fresh else {
                        #[expect(clippy::expect_used, reason = "taken once, with the state")]
                        let refusal = refusal.take().expect("the refusal is still here");
                        return Poll::Ready(Ok(refusal));
                    };
                    // Drops the refusal before the replay, and with it whatever its body holds: at
                    // a concurrency of one the replay would otherwise wait for its own slot.
                    this.state.set(State::Ready { fresh });
                }
                StateProjection::Ready { fresh } => {
                    ready!(this.inner.poll_ready(cx)).map_err(Into::into)?;
                    #[expect(clippy::expect_used, reason = "taken once, with the state")]
                    let replay = this.replay.take().expect("the replay is still here");
                    let fresh = fresh.clone();
                    let response = this.inner.call(replay);
                    this.state.set(State::Replay { response, fresh });
                }
                StateProjection::Replay { response, fresh } => {
                    let response = ready!(response.poll(cx)).map_err(Into::into)?;
                    if response.status().is_success() {
                        this.source.accepted(fresh);
                    }
                    return Poll::Ready(Ok(response));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    };

    use tokio::sync::watch;
    use tower::{ServiceBuilder, ServiceExt, service_fn};

    use super::*;
    use crate::BearerAuthLayer;

    /// A source whose refresh finishes on demand, once for all callers of one generation.
    #[derive(Clone)]
    struct Source {
        current: Arc<Mutex<BearerToken>>,
        refreshes: Arc<AtomicU64>,
        accepted: Arc<AtomicU64>,
        done: watch::Receiver<bool>,
        outcome: fn() -> Result<(), TokenError>,
    }

    impl Source {
        fn new(outcome: fn() -> Result<(), TokenError>) -> (Self, watch::Sender<bool>) {
            let (tell, done) = watch::channel(false);
            let source = Self {
                current: Arc::new(Mutex::new(BearerToken::new("t0", 0).unwrap())),
                refreshes: Arc::default(),
                accepted: Arc::default(),
                done,
                outcome,
            };
            (source, tell)
        }
    }

    impl TokenSource for Source {
        fn token(&self) -> TokenFuture {
            TokenFuture::ready(Ok(self.current.lock().unwrap().clone()))
        }

        fn refresh(&self, stale: &BearerToken) -> TokenFuture {
            let this = self.clone();
            let generation = stale.generation();
            let leader = self.refreshes.load(Ordering::SeqCst) == generation;
            if leader {
                self.refreshes.fetch_add(1, Ordering::SeqCst);
            }
            TokenFuture::wait(async move {
                let mut done = this.done.clone();
                done.wait_for(|done| *done).await.unwrap();
                (this.outcome)()?;
                let mut current = this.current.lock().unwrap();
                if current.generation() == generation {
                    let next = generation + 1;
                    *current = BearerToken::new(&format!("t{next}"), next).unwrap();
                }
                Ok(current.clone())
            })
        }

        fn accepted(&self, token: &BearerToken) {
            assert_eq!(token.generation(), 1);
            self.accepted.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// An upstream that refuses every token but `good`, counting calls.
    fn upstream(
        good: &'static str,
        calls: Arc<AtomicU64>,
    ) -> impl Service<
        Request<&'static str>,
        Response = Response<&'static str>,
        Error = BoxError,
        Future: Send,
    > + Clone {
        service_fn(move |request: Request<&'static str>| {
            calls.fetch_add(1, Ordering::SeqCst);
            let status = if request.headers()["authorization"] == good {
                200
            } else {
                401
            };
            async move {
                let mut response = Response::new(*request.body());
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
                Ok(response)
            }
        })
    }

    #[tokio::test]
    async fn ten_refusals_at_once_make_one_refresh_and_ten_replays() {
        let (source, tell) = Source::new(|| Ok(()));
        let calls = Arc::new(AtomicU64::new(0));
        let service = ServiceBuilder::new()
            .layer(TokenRefreshLayer::new(source.clone()))
            .layer(BearerAuthLayer::new(source.clone()))
            .service(upstream("Bearer t1", Arc::clone(&calls)));

        let mut requests: Vec<_> = (0..10)
            .map(|_| tokio_test::task::spawn(service.clone().oneshot(Request::new("body"))))
            .collect();
        for request in &mut requests {
            tokio_test::assert_pending!(request.poll());
        }
        assert_eq!(calls.load(Ordering::SeqCst), 10);

        tell.send(true).unwrap();
        for request in requests {
            let response = request.await.unwrap();
            assert_eq!(response.status(), 200);
            assert_eq!(*response.body(), "body");
        }
        assert_eq!(source.refreshes.load(Ordering::SeqCst), 1);
        assert_eq!(source.accepted.load(Ordering::SeqCst), 10);
        assert_eq!(calls.load(Ordering::SeqCst), 20);
    }

    #[tokio::test]
    async fn a_second_refusal_goes_to_the_client() {
        let (source, tell) = Source::new(|| Ok(()));
        tell.send(true).unwrap();
        let calls = Arc::new(AtomicU64::new(0));
        let response = ServiceBuilder::new()
            .layer(TokenRefreshLayer::new(source.clone()))
            .layer(BearerAuthLayer::new(source.clone()))
            .service(upstream("Bearer never", Arc::clone(&calls)))
            .oneshot(Request::new("body"))
            .await
            .unwrap();
        assert_eq!(response.status(), 401);
        assert_eq!(calls.load(Ordering::SeqCst), 2);
        assert_eq!(source.accepted.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn a_failed_refresh_returns_the_upstreams_response() {
        let (source, tell) = Source::new(|| Err(TokenError::Unavailable("down".into())));
        tell.send(true).unwrap();
        let calls = Arc::new(AtomicU64::new(0));
        let response = ServiceBuilder::new()
            .layer(TokenRefreshLayer::new(source.clone()))
            .layer(BearerAuthLayer::new(source))
            .service(upstream("Bearer t1", Arc::clone(&calls)))
            .oneshot(Request::new("body"))
            .await
            .unwrap();
        assert_eq!(response.status(), 401);
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_refused_refresh_requires_a_login() {
        let (source, tell) = Source::new(|| Err(TokenError::LoginRequired("run x".into())));
        tell.send(true).unwrap();
        let error = ServiceBuilder::new()
            .layer(TokenRefreshLayer::new(source.clone()))
            .layer(BearerAuthLayer::new(source))
            .service(upstream("Bearer t1", Arc::default()))
            .oneshot(Request::new("body"))
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "login required: run x");
    }

    #[tokio::test]
    async fn a_source_that_cannot_refresh_makes_no_replay() {
        let source = crate::token::StaticToken::new("fixed").unwrap();
        let calls = Arc::new(AtomicU64::new(0));
        let response = ServiceBuilder::new()
            .layer(TokenRefreshLayer::new(source.clone()))
            .layer(BearerAuthLayer::new(source))
            .service(upstream("Bearer other", Arc::clone(&calls)))
            .oneshot(Request::new("body"))
            .await
            .unwrap();
        assert_eq!(response.status(), 401);
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_refusal_without_a_token_of_ours_passes_through() {
        let (source, _tell) = Source::new(|| Ok(()));
        let response = TokenRefreshLayer::new(source.clone())
            .layer(service_fn(|_: Request<()>| async {
                let mut response = Response::new(());
                *response.status_mut() = StatusCode::UNAUTHORIZED;
                Ok::<_, BoxError>(response)
            }))
            .oneshot(Request::new(()))
            .await
            .unwrap();
        assert_eq!(response.status(), 401);
        assert_eq!(source.refreshes.load(Ordering::SeqCst), 0);
    }
}
