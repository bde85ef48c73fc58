//! The gate: which request may leave now, as plain async code that knows no HTTP.
//!
//! [`JitterThrottle`](crate::JitterThrottleLayer) is its tower face, and says what it promises.
//! [`RetryOn429`](crate::RetryOn429Layer) tells it by [`Feedback`] what the upstream has said. It asks
//! every [`Ledger`] for room.

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
