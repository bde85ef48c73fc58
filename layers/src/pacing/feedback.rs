//! How a gate learns what the upstream responded.
//!
//! [`RetryOn429`](crate::RetryOn429Layer) classifies responses and reports them to the
//! [`Gate`](super::Gate) of [`JitterThrottle`](crate::JitterThrottleLayer).

use std::{fmt, time::Duration};

use tokio::time::Instant;

use crate::context::RequestContext;

/// Paces an account and receives reports of its upstream's responses.
///
/// `request` is the request that got the response; it distinguishes the response to a probe from a
/// late response to an earlier request.
pub trait Feedback: fmt::Debug + Send + Sync {
    /// The upstream accepted the request, even if it then failed.
    fn accepted(&self, request: &RequestContext);

    /// The upstream accepts no request before `until`.
    fn refused(&self, request: &RequestContext, until: Instant, recovery: Recovery);

    /// The quota is exhausted until `until`; no request should wait for it.
    fn exhausted(&self, until: Instant);

    /// How long a request that arrives now would wait.
    fn estimate(&self) -> Duration;
}

/// How to continue once a refusal is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// With half as many requests in flight, for a while.
    FewerAtOnce,
    /// With longer gaps, for a while.
    Ramp,
    /// As before.
    Same,
}
