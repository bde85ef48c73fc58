//! The gate: decides which request may leave now, as plain async code that knows no HTTP.
//!
//! In come requests that wait for a turn, and reports of how the upstream responded; out go a
//! [`Permit`] for each dispatch, or [`Refused`]. [`JitterThrottle`](crate::JitterThrottleLayer) is
//! the layer around it and states its guarantees; [`RetryOn429`](crate::RetryOn429Layer) reports to
//! it by [`Feedback`]. It asks every [`Ledger`] for the next slot.

mod acquire;
mod backpressure;
mod clock;
mod feedback;
mod gap;
mod gate;
mod ledger;
mod queue;
mod refused;
mod settings;
#[cfg(test)]
mod tests;

pub use self::{
    acquire::Acquire,
    feedback::{Feedback, Recovery},
    gate::{Gate, Permit, QueuePosition, WeakGate},
    ledger::{Fraction, Ledger, Window},
    queue::Order,
    refused::Refused,
    settings::{Busy, Pacing, ReversedJitter},
};
