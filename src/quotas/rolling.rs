//! A limit on the dispatches in *any* window of a given length.

use std::{collections::VecDeque, num::NonZeroUsize};

use super::clock::Millis;

/// The dispatches of the last window.
#[derive(Debug)]
pub(super) struct RollingCounter {
    per: Millis,
    limit: NonZeroUsize,
    /// Dispatches within the same interval of this length share a bucket.
    bucket_ms: Millis,
    /// Oldest first.
    buckets: VecDeque<Bucket>,
    used: usize,
}

/// Dispatches that all count until the last of them leaves the window.
#[derive(Debug)]
struct Bucket {
    last: Millis,
    count: u32,
}

/// Up to this limit, every dispatch has a bucket of its own: about 10 KiB in the file.
const MAX_EXACT_LIMIT: usize = 512;

/// Above it, a window has this many buckets: a dispatch counts for at most 0.4 % longer than
/// necessary, and the file stays below 6 KiB.
const BUCKETS_PER_WINDOW: Millis = 256;

// === impl RollingCounter ===

impl RollingCounter {
    pub(super) fn new(per: Millis, limit: NonZeroUsize, spent: &[(Millis, u32)]) -> Self {
        let exact = limit.get() <= MAX_EXACT_LIMIT;
        let buckets = spent.iter().map(|&(last, count)| Bucket { last, count });
        Self {
            per,
            limit,
            bucket_ms: if exact {
                1
            } else {
                (per / BUCKETS_PER_WINDOW).max(1)
            },
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

    /// Pairs of a time and the number of dispatches at it, oldest first.
    pub(super) fn spent(&self) -> Vec<(Millis, u32)> {
        let buckets = self.buckets.iter();
        buckets.map(|bucket| (bucket.last, bucket.count)).collect()
    }

    /// When a request with `ahead` others before it may leave under `limit`; `None` means now.
    pub(super) fn next_slot(&mut self, ahead: usize, limit: usize, now: Millis) -> Option<Millis> {
        let used = self.used(now);
        // The dispatch `limit` places earlier must leave the window first. If that one is itself
        // queued, it waits for an earlier one: each round adds a whole window.
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

    /// When the oldest bucket leaves the window.
    pub(super) fn next_to_leave(&self) -> Option<Millis> {
        Some(self.buckets.front()?.last + self.per)
    }

    pub(super) fn record(&mut self, at: Millis) {
        self.used += 1;
        match self.buckets.back_mut() {
            // A process that has just started may be a fraction of a millisecond behind the last
            // one.
            Some(newest)
                if at <= newest.last || at / self.bucket_ms == newest.last / self.bucket_ms =>
            {
                newest.last = newest.last.max(at);
                newest.count += 1;
            }
            _ => self.buckets.push_back(Bucket { last: at, count: 1 }),
        }
    }

    /// Moves the latest dispatch to `at` unless it is later.
    pub(super) fn delay_latest(&mut self, at: Millis) {
        if let Some(newest) = self.buckets.back_mut() {
            newest.last = newest.last.max(at);
        }
    }

    /// Removes the latest dispatch.
    pub(super) fn undo(&mut self) {
        if let Some(newest) = self.buckets.back_mut() {
            self.used -= 1;
            newest.count -= 1;
            if newest.count == 0 {
                self.buckets.pop_back();
            }
        }
    }

    /// Removes one dispatch that was recorded at `at`, or a little later in a shared bucket.
    pub(super) fn refund(&mut self, at: Millis, now: Millis) {
        self.used(now);
        // A dispatch that has left the window must not remove another one.
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
