//! So many in *any* stretch of some length.

use std::{collections::VecDeque, num::NonZeroUsize};

use super::clock::Millis;

/// What has been dispatched lately.
#[derive(Debug)]
pub(super) struct Rolling {
    per: Millis,
    limit: NonZeroUsize,
    /// Dispatches within the same stretch of this length are remembered together.
    grain: Millis,
    /// Oldest first.
    buckets: VecDeque<Bucket>,
    used: usize,
}

/// Dispatches that count until the last of them has left the window.
#[derive(Debug)]
struct Bucket {
    last: Millis,
    count: u32,
}

/// Up to this limit every dispatch is remembered by itself: about 10 KiB in the file.
const MOST_EXACT: usize = 512;

/// Above it, a window is this many grains long: a dispatch counts for at most 0.4 % longer than it
/// has to, and the file stays below 6 KiB.
const GRAINS: Millis = 256;

// === impl Rolling ===

impl Rolling {
    pub(super) fn new(per: Millis, limit: NonZeroUsize, spent: &[(Millis, u32)]) -> Self {
        let exact = limit.get() <= MOST_EXACT;
        let buckets = spent.iter().map(|&(last, count)| Bucket { last, count });
        Self {
            per,
            limit,
            grain: if exact { 1 } else { (per / GRAINS).max(1) },
            buckets: buckets.collect(),
            used: spent.iter().map(|(_, count)| *count as usize).sum(),
        }
    }

    pub(super) fn per(&self) -> Millis {
        self.per
    }

    pub(super) fn limit(&self) -> NonZeroUsize {
        self.limit
    }

    pub(super) fn used(&mut self, now: Millis) -> usize {
        while let Some(oldest) = self.buckets.front()
            && oldest.last + self.per <= now
        {
            self.used -= oldest.count as usize;
            self.buckets.pop_front();
        }
        self.used
    }

    /// How many at which time, oldest first.
    pub(super) fn spent(&self) -> Vec<(Millis, u32)> {
        let buckets = self.buckets.iter();
        buckets.map(|bucket| (bucket.last, bucket.count)).collect()
    }

    /// When there is room for one more with `ahead` others before it and this limit.
    pub(super) fn next_slot(&mut self, ahead: usize, limit: usize, now: Millis) -> Option<Millis> {
        let used = self.used(now);
        // The dispatch `limit` places earlier has to leave the window first. If that one is still
        // to come, it in turn waits for an earlier one: a whole window later for each round.
        let (rounds, ahead) = (ahead / limit, ahead % limit);
        let first = (used + ahead)
            .checked_sub(limit)
            .and_then(|earlier| Some(self.nth(earlier)? + self.per));
        if rounds == 0 {
            return first;
        }
        let rounds = Millis::try_from(rounds).unwrap_or(Millis::MAX);
        let later = self.per.saturating_mul(rounds);
        Some(first.unwrap_or(now).saturating_add(later))
    }

    /// When the oldest leaves.
    pub(super) fn next_to_leave(&self) -> Option<Millis> {
        Some(self.buckets.front()?.last + self.per)
    }

    pub(super) fn record(&mut self, at: Millis) {
        self.used += 1;
        match self.buckets.back_mut() {
            // A process that has just begun may be a part of a millisecond behind the last one.
            Some(newest) if at <= newest.last || at / self.grain == newest.last / self.grain => {
                newest.last = newest.last.max(at);
                newest.count += 1;
            }
            _ => self.buckets.push_back(Bucket { last: at, count: 1 }),
        }
    }

    /// The latest dispatch was not before `at`.
    pub(super) fn put_off(&mut self, at: Millis) {
        if let Some(newest) = self.buckets.back_mut() {
            newest.last = newest.last.max(at);
        }
    }

    /// Forgets one dispatch that was remembered at `at` or a little later.
    pub(super) fn refund(&mut self, at: Millis, now: Millis) {
        self.used(now);
        // One that has left the window takes no other with it.
        if at + self.per <= now {
            return;
        }
        let Some(index) = self.buckets.iter().position(|bucket| bucket.last >= at) else {
            return;
        };
        self.used -= 1;
        self.buckets[index].count -= 1;
        if self.buckets[index].count == 0 {
            self.buckets.remove(index);
        }
    }

    fn nth(&self, index: usize) -> Option<Millis> {
        let mut counted = 0;
        self.buckets
            .iter()
            .find(|bucket| {
                counted += bucket.count as usize;
                counted > index
            })
            .map(|bucket| bucket.last)
    }
}
