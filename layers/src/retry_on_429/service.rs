//! The layer and its service.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Request, Response};
use http_body::Body;
use parking_lot::Mutex;
use pin_project_lite::pin_project;
use rand::rngs::StdRng;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    body::PeekedBody,
    budget::RetryBudget,
    classify::{Classify, StandardClassify},
    resolve::{Retry, RetryPolicy, resolve},
};
use crate::{context::RequestContext, error::BoxError, pacing::Feedback};

/// Applies [`RetryOn429`]; see the [module documentation](super).
#[derive(Clone, Debug)]
pub struct RetryOn429Layer<C = StandardClassify> {
    policy: RetryPolicy<C>,
}

/// Waits out a 429 and retries; see the [module documentation](super).
#[derive(Clone, Debug)]
pub struct RetryOn429<S, C> {
    inner: S,
    policy: Arc<RetryPolicy<C>>,
}

pin_project! {
    /// The response future of [`RetryOn429`].
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, C, B, R>
    where
        S: Service<Request<B>>,
        R: Body,
    {
        // What another attempt needs, until the first one has ended.
        retry: Option<Retry<S, C, B>>,
        started: Instant,
        #[pin]
        state: State<S::Future, R>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F, R>
    where
        R: Body,
    {
        First {
            #[pin]
            response: F,
        },
        // Boxed, because few requests get here.
        Resolve {
            response: Resolving<R>,
        },
    }
}

type Resolving<R> = Pin<Box<dyn Future<Output = Result<Response<PeekedBody<R>>, BoxError>> + Send>>;

// === impl RetryOn429Layer ===

impl<C> RetryOn429Layer<C> {
    /// Asks `classify` what a response means; two retries within four minutes, one minute's wait if
    /// the upstream names none, no feedback.
    pub fn new(classify: C) -> Self {
        Self {
            policy: RetryPolicy::new(classify),
        }
    }

    /// The maximum number of retries after the first attempt.
    #[must_use]
    pub fn max_retries(mut self, most: u32) -> Self {
        self.policy.max_retries = most;
        self
    }

    /// The longest time a request is held without a response. A wait that does not fit is not
    /// begun.
    #[must_use]
    pub fn max_hold(mut self, longest: Duration) -> Self {
        self.policy.max_hold = longest;
        self
    }

    /// The wait when the upstream names none.
    #[must_use]
    pub fn default_wait(mut self, wait: Duration) -> Self {
        self.policy.default_wait = wait;
        self
    }

    /// Reports to `feedback` every response that says something about the account, and leaves the
    /// waiting to it, so that the request keeps its queue position.
    #[must_use]
    pub fn feedback(mut self, feedback: impl Feedback + 'static) -> Self {
        self.policy.feedback = Some(Arc::new(feedback));
        self
    }

    /// Limits retries by `budget`, which layers of the same account share. By default every attempt
    /// may be a retry.
    #[must_use]
    pub fn budget(mut self, budget: RetryBudget) -> Self {
        self.policy.budget = budget;
        self
    }

    /// Draws jitter from `rng`.
    #[must_use]
    pub fn rng(mut self, rng: StdRng) -> Self {
        self.policy.rng = Arc::new(Mutex::new(rng));
        self
    }
}

impl Default for RetryOn429Layer {
    fn default() -> Self {
        Self::new(StandardClassify)
    }
}

impl<S, C: Clone> Layer<S> for RetryOn429Layer<C> {
    type Service = RetryOn429<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        RetryOn429 {
            inner,
            policy: Arc::new(self.policy.clone()),
        }
    }
}

// === impl RetryOn429 ===

impl<S, C, B, R> Service<Request<B>> for RetryOn429<S, C>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    C: Classify + Clone + Send + Sync + 'static,
    B: Clone + Send + 'static,
    R: Body + Send + Unpin + 'static,
    R::Data: Send,
    R::Error: Send,
{
    type Response = Response<PeekedBody<R>>;
    type Error = BoxError;
    type Future = ResponseFuture<S, C, B, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        // The ready service goes into the future; its fresh clone has not been polled.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        // All attempts share one context, so that a retry keeps its queue position.
        let _context: &mut RequestContext = request.extensions_mut().get_or_insert_default();
        let started = Instant::now();
        self.policy.budget.count_first_attempt(started);
        let copy = request.clone();
        let response = inner.call(request);
        ResponseFuture {
            retry: Some(Retry {
                service: inner,
                request: copy,
                policy: Arc::clone(&self.policy),
            }),
            started,
            state: State::First { response },
        }
    }
}

// === impl ResponseFuture ===

impl<S, C, B, R> Future for ResponseFuture<S, C, B, R>
where
    S: Service<Request<B>, Response = Response<R>> + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    C: Classify + Send + Sync + 'static,
    B: Clone + Send + 'static,
    R: Body + Send + Unpin + 'static,
    R::Data: Send,
    R::Error: Send,
{
    type Output = Result<Response<PeekedBody<R>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProjection::First { response } => {
                    let outcome = ready!(response.poll(cx)).map_err(Into::into);
                    #[expect(clippy::expect_used, reason = "taken once, with the state")]
                    let retry = this.retry.take().expect("the retry is still here");
                    let policy = &retry.policy;
                    if let Ok(response) = &outcome
                        && !policy.inspects(response)
                    {
                        policy.report_accepted(&retry.context());
                        return Poll::Ready(
                            outcome.map(|response| response.map(PeekedBody::untouched)),
                        );
                    }
                    let response = Box::pin(resolve(outcome, retry, *this.started));
                    this.state.set(State::Resolve { response });
                }
                StateProjection::Resolve { response } => return response.as_mut().poll(cx),
            }
        }
    }
}

impl<S, C, B, R> fmt::Debug for ResponseFuture<S, C, B, R>
where
    S: Service<Request<B>>,
    R: Body,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
