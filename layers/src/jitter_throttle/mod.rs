//! Sends requests one after another, spaced out, in the order they came.
//!
//! [`JitterThrottle`] makes every request pass a [`Gate`]. Whatever arrives, leaves or is refused
//! by the upstream, the gate promises:
//!
//! - **Gap.** Two dispatches are at least `min-interval + jitter` apart, the jitter drawn anew for
//!   each gap. A request with nobody before it leaves at once.
//! - **Quotas.** No [`Ledger`] is ever overdrawn, such as so many in any window.
//! - **Order.** Sessions take turns, or first come, first served ([`Order`]). A retry goes before
//!   everybody: it has been first once.
//! - **Cancellation.** A request that is dropped while it waits leaves the queue at once and takes
//!   nothing with it.
//! - **No slot without a dispatch.** The slot is taken in the poll in which the inner service is
//!   called.
//! - **Backpressure.** After the upstream's "slow down" nobody leaves before its instant; then one does,
//!   as a probe, and the rest wait for its answer. From two refusals in a row on, quotas are shrunk
//!   for five minutes.
//! - **Bounds.** At most so many wait, and nobody begins or goes on with a wait that is estimated to
//!   be too long: such a request is [`Refused`] with the estimate. Retries are not refused for the
//!   length of the queue.
//! - **Work-conserving.** While someone waits and nothing else forbids it, the next gap is no longer
//!   than the longest jitter makes it.
//! - **Concurrency.** At most so many in flight; a request is in flight until its response body has
//!   ended, failed or been dropped, so the body type changes to [`PermitBody`].
//!
//! It does not poll, spawn or retry. governor keeps the interval, on tokio's clock; the gate adds
//! order, jitter and cancellation. It is the [`Feedback`] that RetryOn429 talks to.
//!
//! # Order laws
//!
//! Inside [`RetryOn429`](crate::RetryOn429Layer) and [`TokenRefresh`](crate::TokenRefreshLayer), so
//! that every attempt takes its turn; outside [`HeaderAlign`](crate::HeaderAlignLayer) and
//! [`BearerAuth`](crate::BearerAuthLayer), so that headers are built and the token is read after the
//! wait.
//!
//! A [`RequestContext`](crate::context::RequestContext) among the request's extensions carries the place
//! from one attempt to the next and takes the time waited; without one each attempt queues anew. Every
//! response that is no error tells the gate that the upstream takes requests, unless
//! [`feedback_from_outside`](JitterThrottleLayer::feedback_from_outside) leaves that to `RetryOn429`.
//!
//! # Examples
//!
//! With defaults nothing is spaced out, and at most 128 requests wait:
//!
//! ```
//! use pacegate_layers::{
//!     JitterThrottleLayer,
//!     pacing::{Gate, Pacing},
//! };
//! use rand::{SeedableRng, rngs::StdRng};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let gate = Gate::new(Pacing::new(), StdRng::seed_from_u64(1));
//! let layer = JitterThrottleLayer::new(gate);
//! # let _ = layer;
//! # }
//! ```
//!
//! Customised: a gap of 1.5 s to 2.5 s, eight in flight.
//!
//! ```
//! use std::{num::NonZeroUsize, time::Duration};
//!
//! use pacegate_layers::pacing::{Pacing, ReversedJitter};
//!
//! # fn main() -> Result<(), ReversedJitter> {
//! let pacing = Pacing::new()
//!     .min_interval(Duration::from_secs(1))
//!     .jitter(Duration::from_millis(500)..=Duration::from_millis(1500))?
//!     .concurrency(NonZeroUsize::new(8))
//!     .max_wait(Duration::from_secs(60));
//! # let _ = pacing;
//! # Ok(())
//! # }
//! ```
//!
//! [`Feedback`]: crate::pacing::Feedback
//! [`Gate`]: crate::pacing::Gate
//! [`Order`]: crate::pacing::Order
//! [`Ledger`]: crate::pacing::Ledger
//! [`Refused`]: crate::pacing::Refused

mod body;
mod service;

pub use self::{
    body::PermitBody,
    service::{JitterThrottle, JitterThrottleLayer, ResponseFuture},
};
