//! What is told to whoever paces an account when its upstream speaks up.
//!
//! [`RetryOn429`](crate::RetryOn429Layer) reads answers and tells; the
//! [`Gate`](super::Gate) of [`JitterThrottle`](crate::JitterThrottleLayer) listens.

use std::{fmt, time::Duration};

use tokio::time::Instant;

use crate::context::RequestContext;

/// Paces an account and wants to know how its upstream answers.
///
/// `request` is the one that was answered; it tells the answer to a probe from the late answer to
/// one that was sent before.
pub trait Feedback: fmt::Debug + Send + Sync {
    /// The upstream took the request on, whatever it made of it.
    fn accepted(&self, request: &RequestContext);

    /// The upstream wants no more requests before `until`.
    fn refused(&self, request: &RequestContext, until: Instant, recovery: Recovery);

    /// Nothing will be taken before `until`, and nobody should wait for it.
    fn exhausted(&self, until: Instant);

    /// How long a request that comes now would wait.
    fn estimate(&self) -> Duration;
}

/// How to go on once a refusal is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// With half as many requests in flight, for a while.
    FewerAtOnce,
    /// With longer gaps, for a while.
    Ramp,
    /// As before.
    Same,
}
