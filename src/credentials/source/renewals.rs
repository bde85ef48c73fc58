//! How often a token is renewed that the upstream rejects.
//!
//! An upstream that answers 401 to a new token usually does so to the next one: the account is
//! blocked, or the service has ended. A renewal for every such answer would flood the token
//! endpoint.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// The latest calls to the token endpoint.
#[derive(Default)]
pub(super) struct Renewals {
    /// Oldest first, no more than [`MOST`].
    calls: VecDeque<Instant>,
    /// How many of them, the latest ones, have brought no token that the upstream accepted.
    in_vain: usize,
    is_reported: bool,
}

/// The time that the other constants are about.
pub(super) const WINDOW: Duration = Duration::from_secs(120);

/// Calls in vain. The first one replaces a token that was revoked. Two more are for an upstream that
/// learns late of new tokens.
const MOST_IN_VAIN: usize = 3;

/// All calls, one in five seconds: some servers of an upstream may accept a token that others
/// reject.
const MOST: usize = 24;

// === impl Renewals ===

impl Renewals {
    /// Counts a call at `now`.
    pub(super) fn count(&mut self, now: Instant) {
        if self.calls.len() == MOST {
            self.calls.pop_front();
        }
        self.calls.push_back(now);
        self.in_vain = self.calls.len().min(self.in_vain + 1);
    }

    /// Notes that the upstream accepts the token of the latest call.
    pub(super) fn accepted(&mut self) {
        self.in_vain = 0;
    }

    /// Whether a rejected token is not renewed at `now`.
    pub(super) fn are_exhausted(&self, now: Instant) -> bool {
        let in_window = |most| {
            let first = self.calls.len().checked_sub(most);
            first.is_some_and(|first| now.duration_since(self.calls[first]) < WINDOW)
        };
        self.in_vain >= MOST_IN_VAIN && in_window(MOST_IN_VAIN) || in_window(MOST)
    }

    /// Returns whether it is yet to be logged that the renewals are exhausted; if so, it counts as
    /// logged.
    pub(super) fn begin_report(&mut self) -> bool {
        !std::mem::replace(&mut self.is_reported, true)
    }
}
