//! How long the upstream keeps the gate closed, and how the gate opens again.
//!
//! After a refusal no request leaves before the instant that the upstream asked for. Then one
//! request is the probe, and the others wait for its response. A refused probe closes the gate
//! again, and from the second consecutive refusal on the gate asks its ledgers for slots under 70 %
//! of their limits for a while. A ledger may ignore the fraction: pacegate's quotas apply it to
//! windows of up to an hour only.

use std::{num::NonZeroUsize, time::Duration};

use tokio::time::Instant;

use super::{feedback::Recovery, ledger::SavedState};

/// What the upstream has asked for.
#[derive(Debug, Default)]
pub(super) struct Backpressure {
    closed: Option<Closed>,
    /// Consecutive refusals since the gate was last open; refusals of requests sent before count
    /// once.
    consecutive: u32,
    shrunk_until: Option<Instant>,
    ramping_until: Option<Instant>,
    halved_until: Option<Instant>,
    exhausted_until: Option<Instant>,
}

#[derive(Debug)]
struct Closed {
    until: Instant,
    /// The dispatch whose response is awaited.
    probe: Option<u64>,
}

/// How long ledgers are asked for a fraction after two consecutive refusals, and how long a
/// requested slowdown stays in force.
const CAUTION: Duration = Duration::from_secs(5 * 60);

/// Asks for a fraction from this consecutive refusal on.
const SHRINK_FROM: u32 = 2;

impl Backpressure {
    /// Continues what an earlier process was told.
    pub(super) fn restore(&mut self, saved: &SavedState) {
        self.closed = saved
            .closed_until
            .map(|until| Closed { until, probe: None });
        self.exhausted_until = saved.exhausted_until;
        self.shrunk_until = saved.shrunk_until;
        self.ramping_until = saved.ramping_until;
        self.halved_until = saved.halved_until;
    }

    /// What a later process has to know; `last_left` is the gap's.
    pub(super) fn saved(&self, last_left: Option<Instant>) -> SavedState {
        SavedState {
            last_left,
            closed_until: self.until(),
            exhausted_until: self.exhausted_until,
            shrunk_until: self.shrunk_until,
            ramping_until: self.ramping_until,
            halved_until: self.halved_until,
        }
    }

    /// Another key is used from now on: what the upstream said of the earlier one does not hold.
    pub(super) fn forget_refusals(&mut self) {
        self.closed = None;
        self.exhausted_until = None;
        self.consecutive = 0;
    }

    /// The earliest instant for the next dispatch.
    pub(super) fn until(&self) -> Option<Instant> {
        self.closed.as_ref().map(|closed| closed.until)
    }

    /// The dispatch whose response the others wait for.
    pub(super) fn probe(&self) -> Option<u64> {
        self.closed.as_ref()?.probe
    }

    pub(super) fn shrunk_until(&self, now: Instant) -> Option<Instant> {
        self.shrunk_until.filter(|until| *until > now)
    }

    pub(super) fn is_ramping(&self, now: Instant) -> bool {
        self.ramping_until.is_some_and(|until| until > now)
    }

    pub(super) fn exhausted_until(&self, now: Instant) -> Option<Instant> {
        self.exhausted_until.filter(|until| *until > now)
    }

    /// How many of `most` requests may be in flight.
    pub(super) fn max_in_flight(&self, most: NonZeroUsize, now: Instant) -> usize {
        if self.halved_until.is_some_and(|until| until > now) {
            (most.get() / 2).max(1)
        } else {
            most.get()
        }
    }

    /// `dispatch_id` is being dispatched.
    pub(super) fn dispatched(&mut self, dispatch_id: u64) {
        if let Some(closed) = &mut self.closed {
            closed.probe = Some(dispatch_id);
        }
    }

    /// `dispatch_id` got a response that is no refusal. True if the others waited for it.
    pub(super) fn accepted(&mut self, dispatch_id: Option<u64>) -> bool {
        if !self.is_probe(dispatch_id) {
            return false;
        }
        if let Some(closed) = &mut self.closed
            && closed.until > Instant::now()
        {
            // A late refusal of an earlier request asks for more time, although the probe
            // succeeded.
            closed.probe = None;
            return true;
        }
        self.closed = None;
        self.consecutive = 0;
        true
    }

    /// `dispatch_id` was refused; no request may leave before `until`.
    pub(super) fn refused(&mut self, dispatch_id: Option<u64>, until: Instant, recovery: Recovery) {
        let caution = Instant::now() + CAUTION;
        if self.closed.is_none() || self.is_probe(dispatch_id) {
            self.consecutive += 1;
            if self.consecutive >= SHRINK_FROM {
                self.shrunk_until = Some(caution);
            }
        }
        match recovery {
            Recovery::FewerAtOnce => self.halved_until = Some(caution),
            Recovery::Ramp => self.ramping_until = Some(caution),
            Recovery::Same => {}
        }
        let probe_was_refused = self.is_probe(dispatch_id);
        let closed = self.closed.get_or_insert(Closed { until, probe: None });
        closed.until = closed.until.max(until);
        if probe_was_refused {
            closed.probe = None;
        }
    }

    pub(super) fn exhausted(&mut self, until: Instant) {
        self.exhausted_until = self.exhausted_until.max(Some(until));
    }

    /// `dispatch_id` ended without a conclusive response; if it was the probe, the next dispatch
    /// is.
    pub(super) fn lost(&mut self, dispatch_id: u64) {
        if self.is_probe(Some(dispatch_id))
            && let Some(closed) = &mut self.closed
        {
            closed.probe = None;
        }
    }

    fn is_probe(&self, dispatch_id: Option<u64>) -> bool {
        let probe = self.probe();
        probe.is_some() && probe == dispatch_id
    }
}
