//! Sends requests one after another, spaced out and in a fair order.
//!
//! In comes a request; [`JitterThrottle`] waits for its turn at a [`Gate`], passes it to the inner
//! service and returns the response. It makes a clone of the inner service ready shortly before the
//! turn, so that the request leaves in the poll that takes its slot. For any arrivals, cancellations
//! and refusals, the gate guarantees:
//!
//! - **Gap.** Two dispatches are at least `min-interval + jitter` apart; the jitter is drawn at
//!   random for each gap. If the queue is empty and the gap has passed, a request leaves at once.
//! - **Quotas.** No [`Ledger`] is ever exceeded, such as a number of requests in any window.
//! - **Readiness.** Only a request whose inner service is ready takes a turn. One that is not keeps
//!   its place and holds up no other. An error of `poll_ready` fails the request before a turn is
//!   used, except [`Stale`](crate::error::Stale): then a fresh clone is made ready.
//! - **Order.** Among those that are ready, sessions take turns, or first come, first served
//!   ([`Order`]). A retry goes first, because it has already waited.
//! - **Cancellation.** A request that is dropped while it waits leaves the queue at once and uses
//!   no slot.
//! - **No slot without a dispatch.** The slot is taken in the poll that calls the inner service.
//! - **Backpressure.** After a refusal no request leaves before the instant that the upstream asked
//!   for; then one request leaves as a probe, and the others wait for its response. From two
//!   consecutive refusals on, quotas are reduced for five minutes.
//! - **Bounds.** The length of the queue is limited, and no request starts or continues a wait that
//!   is estimated to be too long: it is [`Refused`] with the estimate. An estimate counts what is in
//!   flight, by the lengths of the latest answers. Retries are not refused for the length of the
//!   queue.
//! - **Work-conserving.** While a request waits and nothing else blocks it, the next gap is no
//!   longer than the longest jitter makes it.
//! - **Concurrency.** The number of requests in flight is limited; a request is in flight until its
//!   response body has ended, failed or been dropped, so the body type changes to [`PermitBody`].
//!
//! A request that the upstream has not processed ([`NotProcessed`](crate::error::NotProcessed)) takes
//! another turn, twice at most, before the requests that came later. It spawns no task and retries
//! nothing else. governor keeps the interval, on tokio's clock; the gate
//! adds order, jitter and cancellation. The gate is also the [`Feedback`] that `RetryOn429` reports
//! to.
//!
//! # Ordering
//!
//! Inside [`RetryOn429`](crate::RetryOn429Layer) and [`TokenRefresh`](crate::TokenRefreshLayer), so
//! that every attempt takes its turn; outside [`HeaderAlign`](crate::HeaderAlignLayer) and
//! [`BearerAuth`](crate::BearerAuthLayer), so that headers are built and the token is read after
//! the wait.
//!
//! A [`RequestContext`](crate::context::RequestContext) in the request's extensions carries the
//! queue position from one attempt to the next and records the time waited; without one each
//! attempt queues anew. Every response that is no error tells the gate that the upstream accepts
//! requests, unless [`feedback_from_outside`](JitterThrottleLayer::feedback_from_outside) leaves
//! that to `RetryOn429`.
//!
//! # Examples
//!
//! By default requests are not spaced out, and at most 128 wait:
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
