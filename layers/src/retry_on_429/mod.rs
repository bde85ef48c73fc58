//! Waits out an upstream's "slow down" and tries again.
//!
//! [`RetryOn429`] asks a [`Classify`] what an error answer means. If it means "later", the request
//! waits as long as the answer says ([`retry_after`]), a little more, and goes out again. A request
//! that certainly never reached the upstream ([`NotSent`](crate::error::NotSent)) is tried again
//! too, after a short back-off. Everything else goes to the client as it came: a reset after the
//! request was sent, a 500, a 504 may all have been acted on.
//!
//! An event stream may begin with its refusal although its status is a success, if the [`Classify`]
//! says so. It is held back until that is known, and if it is not tried again it goes to the client
//! as a 429.
//!
//! "Used up" is another thing than "later": such an answer becomes the error [`Exhausted`], for the
//! edge to say so in a way that no client retries.
//!
//! Retries, their share of all tries and the time a request is held are capped. A wait that does not fit is not begun: the
//! answer goes to the client at once, with our own estimate as its `Retry-After`, and with
//! `x-should-retry: false` when the retries were spent.
//!
//! It does not know any provider's words, and it never retries once a response head has been handed
//! on. The beginning of an error body is read for the verdict and handed on with the rest, so the
//! body type changes to [`PeekedBody`].
//!
//! # Order laws
//!
//! Outside [`JitterThrottle`](crate::JitterThrottleLayer), so that every attempt takes its turn;
//! outside [`TokenRefresh`](crate::TokenRefreshLayer), so that a refused replay is retried as well.
//! With a [`Feedback`](crate::pacing::Feedback) shared with that layer, one refusal pauses
//! everyone on the account, and the waiting is done at the gate, where the request keeps its place.
//! It puts a [`RequestContext`](crate::context::RequestContext) into the request's extensions if none is there.
//! The layer further in then is to leave feedback to this one
//! ([`feedback_from_outside`](crate::JitterThrottleLayer::feedback_from_outside)): response headers do
//! not say how an event stream begins.
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
//! Customised: this upstream says 529 where others say 429.
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
//!     fn classify(&self, answer: &PeekedResponse<'_>) -> Verdict {
//!         if answer.status.as_u16() == 529 { Verdict::RETRY } else { Verdict::Pass }
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
    classify::{Classify, PeekedResponse, StandardClassify, Verdict},
    resolve::Exhausted,
    service::{ResponseFuture, RetryOn429, RetryOn429Layer},
};
