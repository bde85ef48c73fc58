//! One quota: its limit and its count.

use std::{num::NonZeroUsize, time::Duration};

use jiff::tz::TimeZone;
use pacegate_layers::pacing::Fraction;
use tokio::time::Instant;

use super::{
    QuotaUsage,
    clock::{Millis, Now, duration, millis_up},
    rolling::RollingCounter,
    snapshot::{CounterSnapshot, SavedUsage},
};
use crate::{
    calendar::{Calendar, Period, Unit},
    config::{self, Per},
};

/// One quota.
#[derive(Debug)]
pub(super) struct Counter {
    text: String,
    per: Per,
    kind: CounterKind,
}

#[derive(Debug)]
enum CounterKind {
    Calendar(CalendarCounter),
    Rolling {
        rolling: RollingCounter,
        /// No warning is logged before this monotonic time.
        no_warning_before: Millis,
    },
}

/// The count of the current day, week or month.
#[derive(Debug)]
struct CalendarCounter {
    calendar: Calendar,
    limit: NonZeroUsize,
    period: Period,
    used: u32,
    /// When the period began in this process; `None` if it had begun before.
    entered: Option<Instant>,
    warned: bool,
}

/// A time zone that is not in the database.
#[derive(Debug, thiserror::Error)]
#[error("there is no time zone {0}")]
pub struct UnknownZone(String);

/// Windows up to one hour limit the rate and shrink after refusals. Windows of one hour or more are
/// an account's quota: a request that was not sent is refunded, and a warning precedes exhaustion.
/// A window of exactly one hour is both.
const HOUR: Duration = Duration::from_secs(60 * 60);

/// Caps waits at a hundred years, so that adding one to a time never overflows.
const MAX_WAIT: Duration = Duration::from_secs(100 * 366 * 24 * 60 * 60);

// === impl Counter ===

impl Counter {
    /// Continues the count that `saved` holds of the same quota; without one, starts at zero.
    pub(super) fn new(
        quota: &config::Quota,
        saved: &[CounterSnapshot],
        now: &Now,
    ) -> Result<Self, UnknownZone> {
        let saved = saved.iter().find(|count| count.is_of(&quota.per));
        let saved = saved.map(|count| &count.usage);
        let per_period = |zone: &str, unit| {
            let zone = TimeZone::get(zone).map_err(|_| UnknownZone(zone.into()))?;
            let calendar = Calendar { zone, unit };
            Ok(CounterKind::Calendar(CalendarCounter::new(
                calendar,
                quota.requests,
                saved,
                now,
            )))
        };
        let kind = match &quota.per {
            Per::Day { zone } => per_period(zone, Unit::Day)?,
            Per::Week { zone } => per_period(zone, Unit::Week)?,
            Per::Month { zone, anchor_day } => {
                per_period(zone, Unit::Month(i8::try_from(*anchor_day).unwrap_or(1)))?
            }
            Per::Window(per) => rolling(*per, quota.requests, saved, now),
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

    /// How long until a request with `ahead` others before it may leave; `None` means now.
    pub(super) fn wait(&mut self, ahead: usize, share: Fraction, now: &Now) -> Option<Duration> {
        let wait = match &mut self.kind {
            CounterKind::Calendar(counter) => counter.wait(ahead, now)?,
            CounterKind::Rolling { rolling, .. } => {
                let limit = if duration(rolling.per()) <= HOUR {
                    share.of(rolling.limit())
                } else {
                    rolling.limit().get()
                };
                duration(
                    rolling
                        .next_slot(ahead, limit, now.monotonic_ms)?
                        .saturating_sub(now.monotonic_ms),
                )
            }
        };
        Some(wait.min(MAX_WAIT))
    }

    pub(super) fn record(&mut self, now: &Now) {
        match &mut self.kind {
            CounterKind::Calendar(counter) => {
                counter.roll_over(now);
                counter.used = counter.used.saturating_add(1);
            }
            CounterKind::Rolling { rolling, .. } => rolling.record(now.monotonic_ms_ceil),
        }
    }

    /// The request recorded last has been saved and leaves now.
    pub(super) fn dispatched(&mut self, now: &Now) {
        if let CounterKind::Rolling { rolling, .. } = &mut self.kind {
            rolling.delay_latest(now.monotonic_ms_ceil);
        }
    }

    /// The request recorded last does not leave.
    pub(super) fn undo(&mut self) {
        match &mut self.kind {
            CounterKind::Calendar(counter) => counter.used = counter.used.saturating_sub(1),
            CounterKind::Rolling { rolling, .. } => rolling.undo(),
        }
    }

    /// Refunds the dispatch made at `spent`, which is `at` in monotonic time, if this quota
    /// refunds.
    pub(super) fn refund(&mut self, at: Millis, spent: Instant, now: &Now) {
        match &mut self.kind {
            CounterKind::Calendar(counter) => counter.refund(spent, now),
            CounterKind::Rolling { rolling, .. } => {
                if duration(rolling.per()) >= HOUR {
                    rolling.refund(at, now.monotonic_ms);
                }
            }
        }
    }

    /// True for the first call of each period at which 80 % are used; of a rolling window, at most
    /// once in its length. Windows under an hour never warn.
    pub(super) fn should_warn(&mut self, now: &Now) -> bool {
        match &mut self.kind {
            CounterKind::Calendar(counter) => {
                let first =
                    counter.used as usize >= warning_threshold(counter.limit) && !counter.warned;
                counter.warned |= first;
                first
            }
            CounterKind::Rolling {
                rolling,
                no_warning_before,
            } => {
                let first = duration(rolling.per()) >= HOUR
                    && rolling.used(now.monotonic_ms) >= warning_threshold(rolling.limit())
                    && *no_warning_before <= now.monotonic_ms;
                if first {
                    *no_warning_before = now.monotonic_ms + rolling.per();
                }
                first
            }
        }
    }

    pub(super) fn usage(&mut self, now: &Now) -> QuotaUsage {
        let (used, limit, wait) = match &mut self.kind {
            CounterKind::Calendar(counter) => {
                counter.roll_over(now);
                (counter.used as usize, counter.limit, counter.until_end(now))
            }
            CounterKind::Rolling { rolling, .. } => {
                let used = rolling.used(now.monotonic_ms);
                let next = rolling.next_to_leave().unwrap_or(now.monotonic_ms);
                (
                    used,
                    rolling.limit(),
                    duration(next.saturating_sub(now.monotonic_ms)),
                )
            }
        };
        QuotaUsage {
            quota: self.text.clone(),
            used,
            limit: limit.get(),
            resets: now.wall_after(wait.min(MAX_WAIT)),
        }
    }

    /// The count to save for the next process.
    pub(super) fn count(&self) -> CounterSnapshot {
        let saved = match &self.kind {
            CounterKind::Calendar(counter) => SavedUsage::Period {
                begun: counter.period.begun,
                used: counter.used,
            },
            CounterKind::Rolling { rolling, .. } => SavedUsage::Window {
                spent: rolling.spent(),
            },
        };
        CounterSnapshot::new(&self.per, saved)
    }
}

fn rolling(
    per: Duration,
    limit: NonZeroUsize,
    saved: Option<&SavedUsage>,
    now: &Now,
) -> CounterKind {
    let per = millis_up(per);
    let spent = match saved {
        Some(SavedUsage::Window { spent }) => spent.as_slice(),
        _ => &[],
    };
    let mut rolling = RollingCounter::new(per, limit, spent);
    let warned = rolling.used(now.monotonic_ms) >= warning_threshold(limit);
    CounterKind::Rolling {
        rolling,
        no_warning_before: now.monotonic_ms + if warned { per } else { 0 },
    }
}

/// 80 % of the limit, rounded up.
fn warning_threshold(limit: NonZeroUsize) -> usize {
    limit.get() - limit.get() / 5
}

// === impl CalendarCounter ===

impl CalendarCounter {
    fn new(calendar: Calendar, limit: NonZeroUsize, saved: Option<&SavedUsage>, now: &Now) -> Self {
        let current = calendar.period_at(now.latest_wall_ms);
        let (period, used) = match saved {
            Some(SavedUsage::Period { begun, used }) if *begun >= current.begun => {
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
            warned: used as usize >= warning_threshold(limit),
        }
    }

    /// Starts the next period if the current one has ended.
    fn roll_over(&mut self, now: &Now) {
        if now.latest_wall_ms < self.period.end {
            return;
        }
        let next = self.calendar.period_at(now.latest_wall_ms);
        // Where the clocks go back over midnight, the date repeats; the count goes on.
        if next.begun > self.period.begun {
            self.period = next;
            self.used = 0;
            self.entered = Some(now.instant);
            self.warned = false;
        }
    }

    fn wait(&mut self, ahead: usize, now: &Now) -> Option<Duration> {
        self.roll_over(now);
        let limit = self.limit.get();
        // The number of later periods that are full as well.
        let rounds = (self.used as usize + ahead).checked_sub(limit)? / limit;
        let period = duration(self.calendar.period_at(self.period.end).end - self.period.end);
        let rounds = u32::try_from(rounds).unwrap_or(u32::MAX);
        Some(
            self.until_end(now)
                .saturating_add(period.saturating_mul(rounds)),
        )
    }

    /// Measured by the wall clock: if it was set back, the period ends that much later.
    fn until_end(&self, now: &Now) -> Duration {
        duration(self.period.end - now.wall_ms)
    }

    fn refund(&mut self, spent: Instant, now: &Now) {
        self.roll_over(now);
        if self.entered.is_none_or(|entered| entered <= spent) {
            self.used = self.used.saturating_sub(1);
        }
    }
}
