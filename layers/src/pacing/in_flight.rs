//! How long requests are in flight, and how long until the next of them ends.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

/// The requests in flight, and how long the latest ones were.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    /// When each was dispatched, by the number of its dispatch.
    dispatched: BTreeMap<u64, Instant>,
    /// How long the latest ones took, in the order in which they ended.
    lengths: VecDeque<Duration>,
}

/// The answers that estimates are made of: enough for a steady figure, few enough to follow a
/// change of model within minutes.
const REMEMBERED: usize = 32;

/// The requests in flight that an estimate looks at.
const EXAMINED: usize = 16;

// === impl InFlight ===

impl InFlight {
    pub(super) fn len(&self) -> usize {
        self.dispatched.len()
    }

    pub(super) fn begin(&mut self, dispatch_id: u64, now: Instant) {
        self.dispatched.insert(dispatch_id, now);
    }

    pub(super) fn end(&mut self, dispatch_id: u64, now: Instant) {
        let Some(began) = self.dispatched.remove(&dispatch_id) else {
            return;
        };
        if self.lengths.len() == REMEMBERED {
            self.lengths.pop_front();
        }
        self.lengths.push_back(now.duration_since(began));
    }

    /// The mean length; zero before the first one has ended.
    pub(super) fn mean(&self) -> Duration {
        let count = u32::try_from(self.lengths.len()).unwrap_or(u32::MAX);
        let sum: Duration = self.lengths.iter().sum();
        sum.checked_div(count).unwrap_or_default()
    }

    /// About how long the request `dispatch_id` will still be in flight: as long as the earlier ones
    /// that lasted longer than it has, on average; without one, as long again as it has.
    pub(super) fn remaining(&self, dispatch_id: u64, now: Instant) -> Duration {
        let Some(began) = self.dispatched.get(&dispatch_id) else {
            return Duration::ZERO;
        };
        let rest = self.remaining_lengths(now.duration_since(*began));
        let count = u32::try_from(rest.len()).unwrap_or(u32::MAX);
        rest.iter()
            .sum::<Duration>()
            .checked_div(count)
            .unwrap_or_default()
    }

    /// About how long until one of `most` places is free for a request that has `ahead` others before
    /// it, if each of these takes a place as soon as it can.
    pub(super) fn until_free(&self, ahead: usize, most: usize, now: Instant) -> Duration {
        let most = most.max(1);
        // So many requests have to end before.
        let ends = (self.len() + ahead + 1).saturating_sub(most);
        if ends == 0 {
            return Duration::ZERO;
        }
        // Free places are taken now.
        let begins = most.saturating_sub(self.len());
        let examined = self.len().div_ceil(EXAMINED).max(1);
        let ages = self.dispatched.values().step_by(examined);
        let mut rest: Vec<_> = ages
            .map(|began| now.duration_since(*began))
            .chain(std::iter::repeat_n(Duration::ZERO, begins))
            .flat_map(|age| self.remaining_lengths(age))
            .collect();
        rest.sort_unstable();
        // Each place becomes free once in a mean length; the rest is found in what is in flight. The
        // n-th of them ends at about this quantile of all possible ends.
        let rounds = u32::try_from((ends - 1) / most).unwrap_or(u32::MAX);
        let nth = (ends - 1) % most + 1;
        let index = rest.len() * nth / (self.len() + begins + 1);
        let first = rest.get(index.min(rest.len().saturating_sub(1)));
        let later = self.mean().saturating_mul(rounds);
        first.copied().unwrap_or_default().saturating_add(later)
    }

    /// What remained of the earlier ones that lasted longer than `age`; if none did, `age` again.
    fn remaining_lengths(&self, age: Duration) -> Vec<Duration> {
        let longer = self
            .lengths
            .iter()
            .filter_map(|length| length.checked_sub(age));
        let rest: Vec<_> = longer.filter(|rest| !rest.is_zero()).collect();
        if rest.is_empty() { vec![age] } else { rest }
    }
}
