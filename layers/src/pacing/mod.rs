//! The gate: decides which request may leave now, as plain async code that knows no HTTP.
//!
//! In come requests that wait for a turn, and reports of how the upstream responded; out go a
//! [`Permit`] for each dispatch, or [`Refused`]. [`JitterThrottle`](crate::JitterThrottleLayer) is
//! the layer around it and states its guarantees; [`RetryOn429`](crate::RetryOn429Layer) reports to
//! it by [`Feedback`]. It claims a slot for each dispatch at every [`Ledger`].
//!
//! # Readiness
//!
//! A request that got its turn leaves in the same poll, so all that takes time is done before: its
//! [`Readiness`] gets a connection and a token shortly before its turn. The first *ready* request in
//! order is the next to leave. A request that is not ready keeps its place and holds up no other.
//!
//! ```text
//! queued ─► preparing ─► ready ─► claiming ─► dispatched
//!   ▲ turn is │ far away    │ connection lost │ not granted
//!   └─────────┴─────────────┴─────────────────┘
//! ```

mod acquire;
mod backpressure;
mod claims;
mod clock;
mod feedback;
mod gap;
mod gate;
mod in_flight;
mod ledger;
mod queue;
mod readiness;
mod refused;
mod settings;
#[cfg(test)]
mod tests;

pub use self::{
    acquire::Acquire,
    feedback::{Feedback, Recovery},
    gate::{Gate, Permit, QueuePosition, WaitReason, WeakGate},
    ledger::{Claim, ClaimFuture, Fraction, Ledger, SavedState, Window},
    queue::Order,
    readiness::Readiness,
    refused::Refused,
    settings::{Busy, Pacing, ReversedJitter},
};
