//! What a request needs before it can leave.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

/// Prepares a request to leave: gets a connection and a token, for example.
pub trait Readiness {
    /// Why the request cannot leave.
    type Error;

    /// Ready once the request can leave in the same poll. It is polled shortly before the turn of
    /// the request and once more in the poll that dispatches it, so it may become pending again.
    ///
    /// # Errors
    ///
    /// The request fails, and takes no turn.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>>;

    /// The turn of the request has moved away: gives back what was prepared.
    fn release(&mut self);
}

/// Nothing needs to be prepared.
#[derive(Clone, Copy, Debug)]
pub(super) struct AlwaysReady;

impl Readiness for AlwaysReady {
    type Error = Infallible;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn release(&mut self) {}
}
