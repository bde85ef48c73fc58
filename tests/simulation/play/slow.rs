//! A ledger that takes its time to decide.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use pacegate_layers::pacing::{ClaimFuture, Fraction, Ledger, SavedState};
use tokio::time::{Instant, sleep};

use super::{log::Event, process::Stage};
use crate::fault::Fault;

/// Decides as `inner` does, so much later.
pub(super) struct Slow {
    pub(super) inner: Arc<dyn Ledger>,
    pub(super) takes: Duration,
    pub(super) stage: Weak<Stage>,
    pub(super) fault: Option<Fault>,
}

/// Takes a granted claim back if nobody hears of it.
struct Unheard<'a>(Option<&'a dyn Ledger>);

// === impl Slow ===

impl Ledger for Slow {
    fn claim(&self, fraction: Fraction) -> ClaimFuture {
        if self.takes.is_zero() {
            return self.inner.claim(fraction);
        }
        let (inner, takes, stage) = (Arc::clone(&self.inner), self.takes, self.stage.clone());
        ClaimFuture::wait(async move {
            let decision = inner.claim(fraction).await;
            let mut unheard = Unheard(None);
            if let Ok(pacegate_layers::pacing::Claim::Granted) = decision {
                unheard.0 = Some(&*inner);
            }
            sleep(takes).await;
            unheard.0 = None;
            if let Some(stage) = stage.upgrade() {
                stage.note(Event::Decided);
            }
            decision
        })
    }

    fn left(&self) {
        self.inner.left();
    }

    fn undo(&self) {
        if self.fault != Some(Fault::UndoForgotten) {
            self.inner.undo();
        }
    }

    fn unsent(&self, dispatched: Instant) {
        self.inner.unsent(dispatched);
    }

    fn next_slot(&self, ahead: usize, fraction: Fraction) -> Option<Instant> {
        self.inner.next_slot(ahead, fraction)
    }

    fn remember(&self, state: SavedState) {
        self.inner.remember(state);
    }
}

impl fmt::Debug for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slow")
            .field("inner", &self.inner)
            .field("takes", &self.takes)
            .finish_non_exhaustive()
    }
}

// === impl Unheard ===

impl Drop for Unheard<'_> {
    fn drop(&mut self) {
        if let Some(ledger) = self.0 {
            ledger.undo();
        }
    }
}
