//! The gap between two dispatches.

use std::{collections::VecDeque, time::Duration};

use rand::{RngExt, rngs::StdRng};
use tokio::time::Instant;

use super::{
    ledger::Interval,
    settings::{Busy, Pacing},
};

/// Knows when the gap allows the next dispatch.
#[derive(Debug)]
pub(super) struct Gap {
    interval: Interval,
    not_before: Instant,
    last: Option<Instant>,
    /// The latest dispatches, as many as decide whether to use the busy jitter.
    recent: VecDeque<Instant>,
    rng: StdRng,
}

/// Stretches gaps after the upstream reported that the rate grew too quickly.
const RAMP: u32 = 2;

impl Gap {
    pub(super) fn new(pacing: &Pacing, rng: StdRng) -> Self {
        Self {
            interval: Interval::new(pacing.min_interval),
            not_before: Instant::now(),
            last: None,
            recent: VecDeque::new(),
            rng,
        }
    }

    pub(super) fn not_before(&self) -> Instant {
        self.not_before
    }

    /// When the latest request left.
    pub(super) fn last(&self) -> Option<Instant> {
        self.last
    }

    /// A request has left at `last`, before this process began.
    pub(super) fn continue_from(&mut self, pacing: &Pacing, is_ramping: bool, last: Instant) {
        self.dispatched(pacing, is_ramping, last);
    }

    /// The pacing changes from `old` to `new`: draws the current gap anew.
    pub(super) fn change(&mut self, old: &Pacing, new: &Pacing, is_ramping: bool) {
        if old.min_interval != new.min_interval {
            self.interval = Interval::new(new.min_interval);
        }
        let same = old.min_interval == new.min_interval
            && old.jitter == new.jitter
            && old.busy == new.busy;
        if !same && let Some(last) = self.last {
            self.draw(new, is_ramping, last);
        }
    }

    /// Takes the cell of the minimum interval, or returns when there will be one.
    ///
    /// A second safeguard: [`not_before`](Self::not_before) is at least `min_interval` after the
    /// latest dispatch, so governor only confirms it, or adds the time between two readings of the
    /// clock. The gap with its jitter is the gate's own.
    pub(super) fn take_interval(&self) -> Result<(), Instant> {
        self.interval.take()
    }

    /// A request arrives at an empty queue. Only `idle_jitter`, which imitates a plugin's delay,
    /// makes it wait.
    pub(super) fn start_from_idle(&mut self, pacing: &Pacing, now: Instant) {
        if pacing.idle_jitter && self.not_before <= now {
            self.not_before = now + self.rng.random_range(pacing.jitter.clone());
        }
    }

    /// A request is being dispatched: draws the gap to the next.
    pub(super) fn dispatched(&mut self, pacing: &Pacing, is_ramping: bool, now: Instant) {
        self.last = Some(now);
        if let Some(busy) = &pacing.busy {
            self.recent.push_back(now);
            while self.recent.len() > busy.from.get() {
                self.recent.pop_front();
            }
        }
        self.draw(pacing, is_ramping, now);
    }

    fn draw(&mut self, pacing: &Pacing, is_ramping: bool, last: Instant) {
        let jitter = match &pacing.busy {
            Some(busy) if self.is_busy(busy, last) => busy.jitter.clone(),
            _ => pacing.jitter.clone(),
        };
        let gap: Duration = pacing.min_interval + self.rng.random_range(jitter);
        self.not_before = last + if is_ramping { gap * RAMP } else { gap };
    }

    fn is_busy(&self, busy: &Busy, now: Instant) -> bool {
        self.recent.len() >= busy.from.get() && now.duration_since(self.recent[0]) < busy.within
    }
}
