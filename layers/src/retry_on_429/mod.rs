//! Waits out an upstream's 429 and retries.
//!
//! In comes a request; [`RetryOn429`] passes it to the inner service until a response is worth
//! returning. It asks a [`Classify`] what an error response means. If the request may be retried
//! later, it waits as long as the response asks ([`retry_after`]), plus jitter, and leaves again. A
//! request that certainly never reached the upstream ([`NotSent`](crate::error::NotSent)) is
//! retried too, after a short backoff. All other responses and errors go to the client unchanged:
//! the upstream may have acted on a request that ended with a reset, a 500 or a 504.
//!
//! An event stream may begin with a refusal under a success status, if the [`Classify`] says so. It
//! is held back until its first event is known, and if it is refused and not retried, it goes to
//! the client as a 429.
//!
//! An exhausted quota is not retried: the response becomes the error [`Exhausted`], which the
//! server reports in a way that no client retries.
//!
//! The number of retries, their fraction of all attempts and the time a request is held are
//! limited. If a wait does not fit, the response goes to the client at once, with our own estimate
//! as its `Retry-After`, and with `x-should-retry: false` when the retries are exhausted.
//!
//! It knows no provider's words, and it never retries once the response headers have gone to the
//! client. The beginning of an error body is read to classify it and returned with the rest, so the
//! body type changes to [`PeekedBody`].
//!
//! # Ordering
//!
//! Outside [`JitterThrottle`](crate::JitterThrottleLayer), so that every attempt takes its turn;
//! outside [`TokenRefresh`](crate::TokenRefreshLayer), so that a refused replay is retried as well.
//!
//! With a [`Feedback`](crate::pacing::Feedback) shared with
//! [`JitterThrottle`](crate::JitterThrottleLayer), one refusal pauses all requests of the account,
//! and a request waits at the gate, in its queue position.
//! [`JitterThrottle`](crate::JitterThrottleLayer) then has to leave feedback to this layer
//! ([`feedback_from_outside`](crate::JitterThrottleLayer::feedback_from_outside)): response headers
//! do not say how an event stream begins. This layer puts a
//! [`RequestContext`](crate::context::RequestContext) into the request's extensions if there is
//! none.
//!
//! # Examples
//!
//! With defaults:
//!
//! ```
//! use pacegate_layers::RetryOn429Layer;
//!
//! let layer = RetryOn429Layer::default();
//! # let _ = layer;
//! ```
//!
//! Customised: this upstream responds 529 where others respond 429.
//!
//! ```
//! use std::time::Duration;
//!
//! use pacegate_layers::{
//!     RetryOn429Layer,
//!     retry_on_429::{PeekedResponse, Classify, Verdict},
//! };
//!
//! #[derive(Clone)]
//! struct Overloaded;
//!
//! impl Classify for Overloaded {
//!     fn classify(&self, response: &PeekedResponse<'_>) -> Verdict {
//!         if response.status.as_u16() == 529 { Verdict::RETRY } else { Verdict::Pass }
//!     }
//! }
//!
//! let layer = RetryOn429Layer::new(Overloaded)
//!     .max_retries(5)
//!     .max_hold(Duration::from_secs(30))
//!     .default_wait(Duration::from_secs(2));
//! # let _ = layer;
//! ```

mod backoff;
mod body;
mod budget;
mod classify;
mod resolve;
pub mod retry_after;
mod service;
pub mod sse;
#[cfg(test)]
mod tests;

pub use self::{
    body::PeekedBody,
    budget::RetryBudget,
    classify::{Classify, PeekedResponse, StandardClassify, Verdict},
    resolve::Exhausted,
    service::{ResponseFuture, RetryOn429, RetryOn429Layer},
};
