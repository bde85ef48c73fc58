//! What a gate says to a request that it does not take.

use std::time::Duration;

/// Why a request was not let through. It took no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The gate is draining: nothing waits any more.
    #[error("the gate is draining")]
    Draining,
    /// As many requests wait as may.
    #[error("{waiting} requests are waiting already")]
    QueueFull {
        /// How many.
        waiting: usize,
        /// How long this one would have waited.
        estimate: Duration,
    },
    /// A quota is used up, and its next period begins too late to wait for it.
    #[error("the quota is used up")]
    QuotaExhausted {
        /// How long until there is some again.
        reset: Duration,
    },
    /// The queue is short enough, but slow, or the upstream wants a long pause.
    #[error("the wait would be about {} s", estimate.as_secs())]
    WouldWaitTooLong {
        /// How long this one would have waited.
        estimate: Duration,
    },
}
