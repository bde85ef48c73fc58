//! The layer and its service.

use std::{
    error::Error,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Request, Response, StatusCode};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::body::PermitBody;
use crate::{
    context::RequestContext,
    error::{BoxError, NotProcessed, NotSent, Stale, chain},
    pacing::{Acquire, Gate, Permit, Readiness},
    token::TokenError,
};

/// Applies [`JitterThrottle`]; see the [module documentation](super).
#[derive(Clone, Debug)]
pub struct JitterThrottleLayer {
    gate: Gate,
    reports_feedback: bool,
}

/// Lets requests through its gate one by one; see the [module documentation](super).
///
/// It is always ready: a request waits in the response future, which makes a clone of the inner
/// service ready shortly before its turn.
#[derive(Clone, Debug)]
pub struct JitterThrottle<S> {
    inner: S,
    gate: Gate,
    reports_feedback: bool,
}

pin_project! {
    /// The response future of [`JitterThrottle`].
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        instance: Instance<S, B>,
        gate: Gate,
        // The request, for as long as the upstream may turn out not to have processed it.
        request: Option<Request<B>>,
        resends: u32,
        reports_feedback: bool,
        #[pin]
        state: State<S::Future>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F> {
        Wait {
            turn: Acquire,
        },
        Call {
            #[pin]
            response: F,
            permit: Option<Permit>,
        },
    }
}

/// A clone of the inner service that is made ready for one request.
struct Instance<S, B> {
    /// Never polled itself.
    template: S,
    /// Its clone, from when the request prepares until it is sent.
    service: Option<S>,
    /// The clone has failed to become ready.
    failed: bool,
    request: PhantomData<fn(B)>,
}

/// How often a request is sent again that the upstream has not processed.
const MAX_RESENDS: u32 = 2;

// === impl JitterThrottleLayer ===

impl JitterThrottleLayer {
    /// Requests through this layer and its clones pass `gate`.
    pub fn new(gate: Gate) -> Self {
        Self {
            gate,
            reports_feedback: true,
        }
    }

    /// Leaves it to [`RetryOn429`](crate::RetryOn429Layer), outside this layer and with the gate as
    /// its [`Feedback`](crate::pacing::Feedback), to report how the upstream has responded. This
    /// layer alone sees only the status, and a stream may begin with a refusal under a success.
    #[must_use]
    pub fn feedback_from_outside(mut self) -> Self {
        self.reports_feedback = false;
        self
    }
}

impl<S> Layer<S> for JitterThrottleLayer {
    type Service = JitterThrottle<S>;

    fn layer(&self, inner: S) -> Self::Service {
        JitterThrottle {
            inner,
            gate: self.gate.clone(),
            reports_feedback: self.reports_feedback,
        }
    }
}

// === impl JitterThrottle ===

impl<S, B, R> Service<Request<B>> for JitterThrottle<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    B: Clone,
    R: Body,
{
    type Response = Response<PermitBody<R>>;
    type Error = BoxError;
    type Future = ResponseFuture<S, B>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let context = request.extensions().get::<RequestContext>().cloned();
        ResponseFuture {
            instance: Instance {
                template: self.inner.clone(),
                service: None,
                failed: false,
                request: PhantomData,
            },
            gate: self.gate.clone(),
            request: Some(request),
            resends: 0,
            reports_feedback: self.reports_feedback,
            state: State::Wait {
                turn: self.gate.acquire(context),
            },
        }
    }
}

// === impl ResponseFuture ===

impl<S, B, R> Future for ResponseFuture<S, B>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    B: Clone,
    R: Body,
{
    type Output = Result<Response<PermitBody<R>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProjection::Wait { turn } => {
                    let turn = ready!(turn.poll_with(cx, this.instance));
                    if this.instance.failed
                        && let Some(context) = context(this.request.as_ref())
                    {
                        context.count_attempt();
                    }
                    let permit = turn?;
                    let service = this.instance.service.take();
                    #[expect(clippy::expect_used, reason = "the gate has just made it ready")]
                    let mut service = service.expect("the service is ready");
                    #[expect(clippy::expect_used, reason = "taken with the end only")]
                    let request = this.request.clone().expect("the request is still here");
                    // Writes the request, in this poll: what is polled next is this future.
                    let response = service.call(request);
                    this.state.set(State::Call {
                        response,
                        permit: Some(permit),
                    });
                }
                StateProjection::Call { response, permit } => {
                    let outcome = ready!(response.poll(cx)).map_err(Into::into);
                    #[expect(clippy::expect_used, reason = "taken once, with the state")]
                    let permit = permit.take().expect("the permit is still here");
                    let error = match outcome {
                        Ok(response) => {
                            // `RetryOn429` classifies errors and reports them. A success without a
                            // body cannot turn out to be a refusal, and its permit ends here.
                            let says_all =
                                *this.reports_feedback || response.body().is_end_stream();
                            if says_all && !is_error(response.status()) {
                                permit.accepted();
                            }
                            *this.request = None;
                            let response = response.map(|body| PermitBody::new(body, permit));
                            return Poll::Ready(Ok(response));
                        }
                        Err(error) => error,
                    };
                    if never_left(&*error) {
                        permit.not_sent();
                    }
                    drop(permit);
                    if !may_be_resent(&*error) {
                        return Poll::Ready(Err(error));
                    }
                    if *this.resends == MAX_RESENDS {
                        return Poll::Ready(Err(without_not_sent(error)));
                    }
                    *this.resends += 1;
                    let context = context(this.request.as_ref());
                    let turn = this.gate.acquire(context.cloned());
                    this.state.set(State::Wait { turn });
                }
            }
        }
    }
}

fn context<B>(request: Option<&Request<B>>) -> Option<&RequestContext> {
    request?.extensions().get()
}

/// Whether the upstream cannot have counted the request: there was no connection, or no token.
fn never_left(error: &(dyn Error + 'static)) -> bool {
    chain(error)
        .any(|cause| cause.is::<NotSent>() || cause.is::<Stale>() || cause.is::<TokenError>())
}

/// Whether the request, which has had a turn, may take another one at once.
fn may_be_resent(error: &(dyn Error + 'static)) -> bool {
    chain(error).any(|cause| cause.is::<NotProcessed>() || cause.is::<Stale>())
}

/// The cause alone of a [`NotSent`]: no layer outside sends the request once more.
fn without_not_sent(error: BoxError) -> BoxError {
    match error.downcast::<NotSent>() {
        Ok(not_sent) => not_sent.0,
        Err(other) => other,
    }
}

fn is_error(status: StatusCode) -> bool {
    status.is_client_error() || status.is_server_error()
}

// === impl Instance ===

impl<S, B> Readiness for Instance<S, B>
where
    S: Service<Request<B>, Error: Into<BoxError>> + Clone,
{
    type Error = BoxError;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let mut is_fresh = self.service.is_none();
        loop {
            let service = self.service.get_or_insert_with(|| self.template.clone());
            let Err(error) = ready!(service.poll_ready(cx)).map_err(Into::into) else {
                return Poll::Ready(Ok(()));
            };
            self.service = None;
            // A service that was ready, or nearly so, and is no longer. A fresh one never is.
            if is_fresh || !chain(&*error).any(|cause| cause.is::<Stale>()) {
                self.failed = true;
                return Poll::Ready(Err(error));
            }
            is_fresh = true;
        }
    }

    fn release(&mut self) {
        self.service = None;
    }
}
