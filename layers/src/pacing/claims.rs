//! A claim at every ledger of a gate.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use super::ledger::{Claim, ClaimFuture, Fraction, Ledger};
use crate::error::BoxError;

/// Claims a slot at one ledger after the other, and undoes what was granted unless the request
/// leaves.
#[derive(Debug)]
pub(super) struct Claims {
    ledgers: Arc<[Arc<dyn Ledger>]>,
    fraction: Fraction,
    granted: usize,
    current: Option<ClaimFuture>,
}

// === impl Claims ===

impl Claims {
    pub(super) fn new(ledgers: &Arc<[Arc<dyn Ledger>]>, fraction: Fraction) -> Self {
        Self {
            ledgers: Arc::clone(ledgers),
            fraction,
            granted: 0,
            current: None,
        }
    }

    /// The decision, if every ledger decides at once.
    pub(super) fn try_now(&mut self) -> Option<Result<Claim, BoxError>> {
        while let Some(mut claim) = self.take_next() {
            match claim.take_ready() {
                None => {
                    self.current = Some(claim);
                    return None;
                }
                Some(Ok(Claim::Granted)) => self.granted += 1,
                Some(other) => return Some(other),
            }
        }
        Some(Ok(Claim::Granted))
    }

    /// Ready with [`Claim::Granted`] once every ledger has granted a slot, or with the first other
    /// decision.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Claim, BoxError>> {
        while let Some(mut claim) = self.take_next() {
            match Pin::new(&mut claim).poll(cx) {
                Poll::Pending => {
                    self.current = Some(claim);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(Claim::Granted)) => self.granted += 1,
                Poll::Ready(other) => return Poll::Ready(other),
            }
        }
        Poll::Ready(Ok(Claim::Granted))
    }

    /// The request leaves now.
    pub(super) fn left(mut self) {
        for ledger in self.ledgers.iter() {
            ledger.left();
        }
        self.granted = 0;
    }

    fn take_next(&mut self) -> Option<ClaimFuture> {
        let claim = self.current.take();
        claim.or_else(|| Some(self.ledgers.get(self.granted)?.claim(self.fraction)))
    }
}

impl Drop for Claims {
    fn drop(&mut self) {
        for ledger in &self.ledgers[..self.granted] {
            ledger.undo();
        }
    }
}
