//! Not too early, not too late, not too many.

use std::time::Duration;

use super::{Broken, Promise, TICK, Wait, Watch};

impl Watch<'_> {
    pub(super) fn gap(&self) -> Result<(), Broken> {
        let least = self.scenario.min_interval + self.scenario.jitter_bounds().0;
        let gap = self.last.map_or(least, |last| self.now - last);
        self.hold(Promise::Gap, gap >= least, || {
            format!("{gap:?} after the one before")
        })
    }

    pub(super) fn closing(&self) -> Result<(), Broken> {
        self.hold(Promise::Exhausted, self.now >= self.exhausted_until, || {
            format!("used up until {:?}", self.exhausted_until)
        })?;
        let Some(closed) = &self.closed else {
            return Ok(());
        };
        self.hold(Promise::Closing, self.now >= closed.until, || {
            format!("closed until {:?}", closed.until)
        })?;
        self.hold(Promise::Probe, closed.probe.is_none(), || {
            format!("the probe {:?} has no answer yet", closed.probe)
        })
    }

    /// Nothing but what is promised may have held up the one that leaves now.
    pub(super) fn work_conserving(&self, wait: &Wait) -> Result<(), Broken> {
        let longest = self.scenario.min_interval + self.scenario.jitter_bounds().1;
        let gap = self.last.map_or(Duration::ZERO, |last| last + longest);
        let closed = self
            .closed
            .as_ref()
            .map_or(Duration::ZERO, |closed| closed.until);
        let others = [gap, closed, wait.since, self.freed, self.started];
        let allowed = others.into_iter().max().unwrap_or_default();
        if self.now <= allowed + TICK {
            return Ok(());
        }
        let allowed = allowed.max(self.held_by_quotas());
        let late = self.now.saturating_sub(allowed);
        self.hold(Promise::WorkConserving, late <= self.tolerance(), || {
            format!("nothing held it after {allowed:?}")
        })
    }

    /// Retries come on top: they have been let in before.
    pub(super) fn bound(&self) -> Result<(), Broken> {
        let newcomers = self.waiting.values().filter(|wait| !wait.again).count();
        // One may be on its way through without having to wait.
        self.hold(
            Promise::Bound,
            newcomers <= self.scenario.max_queue + 1,
            || format!("{newcomers} wait, {} may", self.scenario.max_queue),
        )
    }

    /// A book counts in milliseconds and takes what it cannot know for later than it was.
    pub(super) fn tolerance(&self) -> Duration {
        TICK + Duration::from_millis(2) + self.clock.restarts() * Duration::from_millis(3)
    }
}
