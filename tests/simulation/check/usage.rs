//! Quotas: never more than there is, never less than there is, and told as it is.

use std::{num::NonZeroUsize, time::Duration};

use pacegate_layers::pacing::Fraction;

use super::{
    Broken, Promise, Watch,
    ledger::{Account, Kind, Spent},
};

impl Watch<'_> {
    /// One has just been dispatched.
    pub(super) fn quotas(&self) -> Result<(), Broken> {
        for Account { quota, kind } in &self.ledger.accounts {
            let limit = quota.requests.get();
            match kind {
                Kind::Calendar {
                    calendar, counts, ..
                } => {
                    let period = calendar.period(self.clock.civil());
                    let count = counts.get(&period).copied().unwrap_or_default();
                    self.hold(Promise::Day, count <= limit, || {
                        format!("{count} of {quota} from {period} on")
                    })?;
                }
                Kind::Window {
                    per,
                    shrinks,
                    spent,
                    ..
                } => {
                    let begin = self.clock.longest() - per;
                    let inside = |spent: &&Spent| spent.longest > begin;
                    let count = spent.iter().rev().take_while(inside).count();
                    self.hold(Promise::Window, count <= limit, || {
                        format!("{count} of {quota}")
                    })?;
                    let fewer = Fraction::SHRUNK.of(quota.requests);
                    let fits = !shrinks || count <= fewer || self.now >= self.shrunk_until;
                    self.hold(Promise::Shrink, fits, || {
                        format!("{count} of {quota} after two refusals, {fewer} may be")
                    })?;
                }
            }
        }
        Ok(())
    }

    /// Until when quotas may have held the request that is dispatched now.
    pub(super) fn held_by_quotas(&self) -> Duration {
        let waiting = self.waiting.values().map(|wait| wait.since);
        let since = waiting.min().unwrap_or_default();
        let held = |Account { quota, kind }: &Account<'_>| match kind {
            Kind::Calendar {
                calendar,
                counts,
                latest,
                ..
            } => {
                let latest = (*latest)?;
                let period = calendar.period(latest);
                let was_full = counts.get(&period)? >= &quota.requests.get();
                let is_over = calendar.period(self.clock.civil()) != period;
                let end = (was_full && is_over).then(|| calendar.end(latest))?;
                Some(self.clock.when_expected(end, since))
            }
            Kind::Window { .. } => self.place(quota.requests, kind),
        };
        let held = self.ledger.accounts.iter().filter_map(held);
        held.max().unwrap_or_default().max(self.exhausted_until)
    }

    /// When all quotas have room for one.
    pub(super) fn room(&self) -> Duration {
        let rooms = self.ledger.accounts.iter().filter_map(|account| {
            let Account { quota, kind } = account;
            let Kind::Calendar {
                calendar, counts, ..
            } = kind
            else {
                return self.place(quota.requests, kind);
            };
            let period = calendar.period(self.clock.civil());
            let is_full = counts.get(&period)? >= &quota.requests.get();
            let end = is_full.then(|| calendar.end(self.clock.civil()))?;
            Some(self.clock.when_shown(end))
        });
        let room = rooms.max().unwrap_or_default();
        room.max(self.exhausted_until).max(self.now)
    }

    /// The book says how much of each quota is used.
    pub(super) fn usage(&self, used: Option<&[usize]>) -> Result<(), Broken> {
        let Some(used) = used else {
            return Ok(());
        };
        for (Account { quota, kind }, used) in self.ledger.accounts.iter().zip(used) {
            let (least, most) = match kind {
                Kind::Calendar {
                    calendar, counts, ..
                } => {
                    let period = calendar.period(self.clock.civil());
                    let count = counts.get(&period).copied().unwrap_or_default();
                    (count, count)
                }
                Kind::Window { per, spent, .. } => {
                    let begin = self.clock.taken() - per;
                    let inside = |begin: i64| {
                        let inside = |spent: &&Spent| spent.taken > begin;
                        spent.iter().rev().take_while(inside).count()
                    };
                    let tolerance = i64::try_from(self.tolerance().as_micros()).unwrap_or(0);
                    (inside(begin), inside(begin - tolerance))
                }
            };
            self.hold(Promise::Usage, (least..=most).contains(used), || {
                format!("{used} are said to be used of {quota}, {least} to {most} are")
            })?;
        }
        Ok(())
    }

    /// When there is a place in a window, or was one.
    fn place(&self, limit: NonZeroUsize, kind: &Kind) -> Option<Duration> {
        let Kind::Window {
            per,
            shrinks,
            spent,
            ..
        } = kind
        else {
            return None;
        };
        let place = |limit: usize| {
            let oldest = spent.len().checked_sub(limit)?;
            Some(self.clock.when_taken(spent[oldest].taken + per))
        };
        let whole = place(limit.get()).unwrap_or_default();
        if !shrinks {
            return Some(whole);
        }
        // Shrunk for as long as that lasts, then whole.
        let shrunk = place(Fraction::SHRUNK.of(limit)).unwrap_or_default();
        Some(whole.max(shrunk.min(self.shrunk_until)))
    }
}
