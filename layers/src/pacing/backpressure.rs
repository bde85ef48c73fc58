//! Closed by the upstream: until when, and how it opens again.
//!
//! After a refusal nobody leaves before the upstream's instant. Then one request is the probe, and
//! the rest wait for its answer. A probe that is refused closes the gate again, and from the second
//! refusal in a row on only a part of every quota is used for a while.

use std::{num::NonZeroUsize, time::Duration};

use tokio::time::Instant;

use super::feedback::Recovery;

/// What the upstream has asked for.
#[derive(Debug, Default)]
pub(super) struct Backpressure {
    closed: Option<Closed>,
    /// Refusals since the gate was last open; those that answer what was sent before count once.
    in_a_row: u32,
    shrunk_until: Option<Instant>,
    ramping_until: Option<Instant>,
    fewer_until: Option<Instant>,
    exhausted_until: Option<Instant>,
}

#[derive(Debug)]
struct Closed {
    until: Instant,
    /// The dispatch whose answer is waited for.
    probe: Option<u64>,
}

/// For this long after two refusals in a row quotas are shrunk, and after other requests of the
/// upstream's its wish is kept.
const CAUTION: Duration = Duration::from_secs(5 * 60);

/// From this refusal in a row on.
const SHRINK_FROM: u32 = 2;

impl Backpressure {
    /// The earliest instant for the next dispatch.
    pub(super) fn until(&self) -> Option<Instant> {
        self.closed.as_ref().map(|closed| closed.until)
    }

    /// Whether everybody waits for the answer to one.
    pub(super) fn is_probing(&self) -> bool {
        self.closed
            .as_ref()
            .is_some_and(|closed| closed.probe.is_some())
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

    /// How many of `most` may be in flight.
    pub(super) fn at_once(&self, most: NonZeroUsize, now: Instant) -> usize {
        if self.fewer_until.is_some_and(|until| until > now) {
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

    /// `dispatch_id` was answered with something else than a refusal. True if that opens the gate.
    pub(super) fn accepted(&mut self, dispatch_id: Option<u64>) -> bool {
        if !self.is_probe(dispatch_id) {
            return false;
        }
        if let Some(closed) = &mut self.closed
            && closed.until > Instant::now()
        {
            // A late refusal of an earlier request wants more time than the probe's luck.
            closed.probe = None;
            return false;
        }
        self.closed = None;
        self.in_a_row = 0;
        true
    }

    /// `dispatch_id` was refused until `until`.
    pub(super) fn refused(&mut self, dispatch_id: Option<u64>, until: Instant, recovery: Recovery) {
        let caution = Instant::now() + CAUTION;
        if self.closed.is_none() || self.is_probe(dispatch_id) {
            self.in_a_row += 1;
            if self.in_a_row >= SHRINK_FROM {
                self.shrunk_until = Some(caution);
            }
        }
        match recovery {
            Recovery::FewerAtOnce => self.fewer_until = Some(caution),
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

    /// `dispatch_id` ended without an answer that says anything; if it was the probe, the next one is.
    pub(super) fn lost(&mut self, dispatch_id: u64) {
        if self.is_probe(Some(dispatch_id))
            && let Some(closed) = &mut self.closed
        {
            closed.probe = None;
        }
    }

    fn is_probe(&self, dispatch_id: Option<u64>) -> bool {
        let probe = self.closed.as_ref().and_then(|closed| closed.probe);
        probe.is_some() && probe == dispatch_id
    }
}
