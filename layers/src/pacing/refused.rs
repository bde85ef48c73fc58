//! Why a gate refuses a request.

use std::time::Duration;

/// Why a request was refused. It took no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The gate is draining: no request waits any more.
    #[error("the gate is draining")]
    Draining,
    /// The queue is full.
    #[error("{waiting} requests are waiting already")]
    QueueFull {
        /// How many requests wait.
        waiting: usize,
        /// How long this request would have waited.
        estimate: Duration,
    },
    /// A quota is exhausted, and too long a wait would remain until its next period.
    #[error("the quota is used up")]
    QuotaExhausted {
        /// How long until the quota allows a request again.
        reset: Duration,
    },
    /// The queue is short enough, but slow, or the upstream asks for a long pause.
    #[error("the wait would be about {} s", estimate.as_secs())]
    WouldWaitTooLong {
        /// How long this request would have waited.
        estimate: Duration,
    },
}
