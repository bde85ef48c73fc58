//! One quota: its limit and its count.

use std::{num::NonZeroUsize, time::Duration};

use jiff::tz::TimeZone;
use pacegate_layers::pacing::Fraction;
use tokio::time::Instant;

use super::{
    Usage,
    calendar::{Calendar, Period, Unit},
    clock::{Millis, Now, duration, millis_up},
    record::{Count, Kept},
    rolling::Rolling,
};
use crate::config::{self, Per};

/// One quota.
#[derive(Debug)]
pub(super) struct Counter {
    text: String,
    per: Per,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Calendar(Dated),
    Rolling {
        rolling: Rolling,
        /// No second warning before this even time.
        quiet_until: Millis,
    },
}

/// The count of the current day, week or month.
#[derive(Debug)]
struct Dated {
    calendar: Calendar,
    limit: NonZeroUsize,
    period: Period,
    used: u32,
    /// When this process has seen the period begin; `None` if it was under way.
    entered: Option<Instant>,
    warned: bool,
}

/// A zone that is not in the time zone database.
#[derive(Debug, thiserror::Error)]
#[error("there is no time zone {0}")]
pub struct UnknownZone(String);

/// Windows up to this length limit the rate, so they shrink after refusals, and what was not sent
/// still counts. From this length on they are what an account is sold with.
const HOUR: Duration = Duration::from_secs(60 * 60);

/// Longer than anybody waits, and short enough for any clock to be that far ahead.
const FOREVER: Duration = Duration::from_secs(100 * 366 * 24 * 60 * 60);

// === impl Counter ===

impl Counter {
    /// Goes on from what was `kept` of the same quota, or begins.
    pub(super) fn new(
        quota: &config::Quota,
        kept: &[Count],
        now: &Now,
    ) -> Result<Self, UnknownZone> {
        let kept = kept.iter().find(|count| count.is_of(&quota.per));
        let kept = kept.map(|count| &count.kept);
        let dated = |zone: &str, unit| {
            let zone = TimeZone::get(zone).map_err(|_| UnknownZone(zone.into()))?;
            let calendar = Calendar { zone, unit };
            Ok(Kind::Calendar(Dated::new(
                calendar,
                quota.requests,
                kept,
                now,
            )))
        };
        let kind = match &quota.per {
            Per::Day { zone } => dated(zone, Unit::Day)?,
            Per::Week { zone } => dated(zone, Unit::Week)?,
            Per::Month { zone, anchor_day } => {
                dated(zone, Unit::Month(i8::try_from(*anchor_day).unwrap_or(1)))?
            }
            Per::Window(per) => rolling(*per, quota.requests, kept, now),
        };
        Ok(Self {
            text: quota.to_string(),
            per: quota.per.clone(),
            kind,
        })
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// How long until there is room for one more with `ahead` others before it; `None` is at once.
    pub(super) fn wait(&mut self, ahead: usize, share: Fraction, now: &Now) -> Option<Duration> {
        let wait = match &mut self.kind {
            Kind::Calendar(dated) => dated.wait(ahead, now)?,
            Kind::Rolling { rolling, .. } => {
                let limit = if duration(rolling.per()) <= HOUR {
                    share.of(rolling.limit())
                } else {
                    rolling.limit().get()
                };
                duration(
                    rolling
                        .next_slot(ahead, limit, now.even)?
                        .saturating_sub(now.even),
                )
            }
        };
        Some(wait.min(FOREVER))
    }

    pub(super) fn record(&mut self, now: &Now) {
        match &mut self.kind {
            Kind::Calendar(dated) => {
                dated.turn_page(now);
                dated.used = dated.used.saturating_add(1);
            }
            Kind::Rolling { rolling, .. } => rolling.record(now.even_up),
        }
    }

    /// What was spent last has been written down, and leaves now.
    pub(super) fn leaves(&mut self, now: &Now) {
        if let Kind::Rolling { rolling, .. } = &mut self.kind {
            rolling.put_off(now.even_up);
        }
    }

    /// Forgets the dispatch made at `spent`, which is `at` in even time, if it counts here.
    pub(super) fn refund(&mut self, at: Millis, spent: Instant, now: &Now) {
        match &mut self.kind {
            Kind::Calendar(dated) => dated.refund(spent, now),
            Kind::Rolling { rolling, .. } => {
                if duration(rolling.per()) >= HOUR {
                    rolling.refund(at, now.even);
                }
            }
        }
    }

    /// True once in a period: when four fifths are used. A short window is there to be filled.
    pub(super) fn is_running_out(&mut self, now: &Now) -> bool {
        match &mut self.kind {
            Kind::Calendar(dated) => {
                let first = dated.used as usize >= mark(dated.limit) && !dated.warned;
                dated.warned |= first;
                first
            }
            Kind::Rolling {
                rolling,
                quiet_until,
            } => {
                let first = duration(rolling.per()) >= HOUR
                    && rolling.used(now.even) >= mark(rolling.limit())
                    && *quiet_until <= now.even;
                if first {
                    *quiet_until = now.even + rolling.per();
                }
                first
            }
        }
    }

    pub(super) fn usage(&mut self, now: &Now) -> Usage {
        let (used, limit, wait) = match &mut self.kind {
            Kind::Calendar(dated) => {
                dated.turn_page(now);
                (dated.used as usize, dated.limit, dated.until_end(now))
            }
            Kind::Rolling { rolling, .. } => {
                let used = rolling.used(now.even);
                let next = rolling.next_to_leave().unwrap_or(now.even);
                (
                    used,
                    rolling.limit(),
                    duration(next.saturating_sub(now.even)),
                )
            }
        };
        Usage {
            quota: self.text.clone(),
            used,
            limit: limit.get(),
            resets: now.wall_after(wait.min(FOREVER)),
        }
    }

    /// What the next process has to know.
    pub(super) fn count(&self) -> Count {
        let kept = match &self.kind {
            Kind::Calendar(dated) => Kept::Period {
                begun: dated.period.begun,
                used: dated.used,
            },
            Kind::Rolling { rolling, .. } => Kept::Window {
                spent: rolling.spent(),
            },
        };
        Count::new(&self.per, kept)
    }
}

fn rolling(per: Duration, limit: NonZeroUsize, kept: Option<&Kept>, now: &Now) -> Kind {
    let per = millis_up(per);
    let spent = match kept {
        Some(Kept::Window { spent }) => spent.as_slice(),
        _ => &[],
    };
    let mut rolling = Rolling::new(per, limit, spent);
    let warned = rolling.used(now.even) >= mark(limit);
    Kind::Rolling {
        rolling,
        quiet_until: now.even + if warned { per } else { 0 },
    }
}

/// Four fifths, rounded up.
fn mark(limit: NonZeroUsize) -> usize {
    limit.get() - limit.get() / 5
}

// === impl Dated ===

impl Dated {
    fn new(calendar: Calendar, limit: NonZeroUsize, kept: Option<&Kept>, now: &Now) -> Self {
        let current = calendar.period_at(now.civil);
        let (period, used) = match kept {
            Some(Kept::Period { begun, used }) if *begun >= current.begun => {
                (calendar.period_from(*begun), *used)
            }
            _ => (current, 0),
        };
        Self {
            calendar,
            limit,
            period,
            used,
            entered: None,
            warned: used as usize >= mark(limit),
        }
    }

    /// Begins the next period if it is time.
    fn turn_page(&mut self, now: &Now) {
        if now.civil < self.period.end {
            return;
        }
        let next = self.calendar.period_at(now.civil);
        // Where a midnight comes twice, the calendar goes back by a day in between; counts do not.
        if next.begun > self.period.begun {
            self.period = next;
            self.used = 0;
            self.entered = Some(now.instant);
            self.warned = false;
        }
    }

    fn wait(&mut self, ahead: usize, now: &Now) -> Option<Duration> {
        self.turn_page(now);
        let limit = self.limit.get();
        // Those who find no room in this period, and not in so many others after it either.
        let rounds = (self.used as usize + ahead).checked_sub(limit)? / limit;
        let period = duration(self.calendar.period_at(self.period.end).end - self.period.end);
        let rounds = u32::try_from(rounds).unwrap_or(u32::MAX);
        Some(
            self.until_end(now)
                .saturating_add(period.saturating_mul(rounds)),
        )
    }

    /// By what the clock shows: if it was set back, the period is that much longer.
    fn until_end(&self, now: &Now) -> Duration {
        duration(self.period.end - now.wall)
    }

    fn refund(&mut self, spent: Instant, now: &Now) {
        self.turn_page(now);
        if self.entered.is_none_or(|entered| entered <= spent) {
            self.used = self.used.saturating_sub(1);
        }
    }
}
