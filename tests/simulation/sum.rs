//! How much has happened.

use std::{fmt, ops::AddAssign, time::Duration};

use crate::play::{Event, Log};

#[derive(Debug, Default)]
pub(crate) struct Sum {
    dispatches: u64,
    refusals: u64,
    cancellations: u64,
    restarts: u64,
    settings: u64,
    given_back: u64,
    time: Duration,
}

impl Sum {
    pub(crate) fn of(log: &Log) -> Self {
        let mut sum = Self::default();
        for entry in &log.entries {
            match entry.event {
                Event::Dispatched { .. } => sum.dispatches += 1,
                Event::GivesUp { .. } => sum.cancellations += 1,
                Event::Refused { .. } => sum.refusals += 1,
                Event::Set { .. } => sum.settings += 1,
                Event::Stopped { .. } => sum.restarts += 1,
                Event::Unreached { .. } => sum.given_back += 1,
                _ => {}
            }
        }
        // The last one is the end.
        sum.restarts -= 1;
        sum.time = log.entries.last().map_or(Duration::ZERO, |last| last.at);
        sum
    }

    /// Whether `scenarios` of them had enough of everything to meet every rare mixture.
    pub(crate) fn is_lively(&self, scenarios: u64) -> bool {
        let Self {
            dispatches,
            refusals,
            cancellations,
            restarts,
            settings,
            given_back,
            time,
        } = self;
        let rare = [refusals, cancellations, restarts, settings, given_back];
        *dispatches > 10 * scenarios
            && rare.into_iter().all(|count| *count > scenarios / 2)
            && time.as_secs() > scenarios * 86_400
    }
}

impl AddAssign for Sum {
    fn add_assign(&mut self, other: Self) {
        self.dispatches += other.dispatches;
        self.refusals += other.refusals;
        self.cancellations += other.cancellations;
        self.restarts += other.restarts;
        self.settings += other.settings;
        self.given_back += other.given_back;
        self.time += other.time;
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            dispatches,
            refusals,
            cancellations,
            restarts,
            settings,
            given_back,
            time,
        } = self;
        let days = time.as_secs() / 86_400;
        write!(
            f,
            "{days} days, {dispatches} dispatches, {refusals} refusals, {cancellations} \
             cancellations, {given_back} given back, {restarts} restarts, {settings} settings of \
             the clock"
        )
    }
}
