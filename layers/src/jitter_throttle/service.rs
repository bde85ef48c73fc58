//! The layer and its service.

use std::{
    error::Error,
    future::Future,
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
    error::{BoxError, NotSent, chain},
    pacing::{Acquire, Gate, Permit},
    token::TokenError,
};

/// Applies [`JitterThrottle`]; see the [module documentation](super).
#[derive(Clone, Debug)]
pub struct JitterThrottleLayer {
    gate: Gate,
    reports_feedback: bool,
}

/// Lets requests through its gate one by one; see the [module documentation](super).
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
        reports_feedback: bool,
        #[pin]
        state: State<S, S::Future, B>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, F, B> {
        Wait {
            inner: S,
            request: Option<Request<B>>,
            #[pin]
            turn: Acquire,
        },
        Call {
            #[pin]
            response: F,
            permit: Option<Permit>,
        },
    }
}

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
    R: Body,
{
    type Response = Response<PermitBody<R>>;
    type Error = BoxError;
    type Future = ResponseFuture<S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The ready service goes into the future; its fresh clone has not been polled.
        let fresh = self.inner.clone();
        let context = request.extensions().get::<RequestContext>().cloned();
        ResponseFuture {
            reports_feedback: self.reports_feedback,
            state: State::Wait {
                inner: std::mem::replace(&mut self.inner, fresh),
                request: Some(request),
                turn: self.gate.acquire(context),
            },
        }
    }
}

// === impl ResponseFuture ===

impl<S, B, R> Future for ResponseFuture<S, B>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    R: Body,
{
    type Output = Result<Response<PermitBody<R>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut state = this.state;
        loop {
            match state.as_mut().project() {
                StateProjection::Wait {
                    inner,
                    request,
                    turn,
                } => {
                    let permit = ready!(turn.poll(cx))?;
                    #[expect(clippy::expect_used, reason = "taken once, with the state")]
                    let request = request.take().expect("the request is still here");
                    let response = inner.call(request);
                    state.set(State::Call {
                        response,
                        permit: Some(permit),
                    });
                }
                StateProjection::Call { response, permit } => {
                    let outcome = ready!(response.poll(cx)).map_err(Into::into);
                    #[expect(clippy::expect_used, reason = "taken once, with the end")]
                    let permit = permit.take().expect("the permit is still here");
                    let response = outcome.inspect_err(|error| {
                        if never_left(&**error) {
                            permit.not_sent();
                        }
                    })?;
                    // `RetryOn429` classifies errors and reports them. A success without a body
                    // cannot turn out to be a refusal, and its permit ends here.
                    let says_all = *this.reports_feedback || response.body().is_end_stream();
                    if says_all && !is_error(response.status()) {
                        permit.accepted();
                    }
                    return Poll::Ready(Ok(response.map(|body| PermitBody::new(body, permit))));
                }
            }
        }
    }
}

/// Whether the upstream cannot have counted the request: there was no connection, or no token.
fn never_left(error: &(dyn Error + 'static)) -> bool {
    chain(error).any(|cause| cause.is::<NotSent>() || cause.is::<TokenError>())
}

fn is_error(status: StatusCode) -> bool {
    status.is_client_error() || status.is_server_error()
}
