//! Ways to break a promise, by wiring the real gate and the real book wrongly.

use std::{sync::Arc, time::Duration};

use jiff::tz::TimeZone;
use pacegate::{
    config::{self, Per},
    wall_clock::WallClock,
};
use pacegate_layers::pacing::{Ledger, Order, Pacing};

use crate::{
    check::Promise,
    scenario::Scenario,
    wrong::{Way, Wrong},
};

/// A planted fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Every month begins on its first day.
    AnchorIgnored,
    CancelTakesASlot,
    ChildrenAreStrangers,
    /// Another date is another day, also one that was there before.
    DayByDate,
    /// A day has 24 hours, also when clocks change.
    FixedDay,
    /// A restart forgets all that was counted, …
    ForgetsAll,
    /// … the days, weeks and months, …
    ForgetsDays,
    /// … or the windows.
    ForgetsWindows,
    /// What the upstream has counted is given back.
    GivesBackBroken,
    /// What the upstream never saw is not given back.
    KeepsUnreached,
    NoBound,
    NoConcurrencyLimit,
    /// "Used up" is not heard.
    NoEnd,
    NoJitter,
    NoOrder,
    NoPause,
    NoProbe,
    NoShrink,
    NoWakeOnDrop,
    NoWindow,
    PermitLeaks,
    Race,
    RetryQueuesAnew,
    ShortGap,
    ShortPause,
    ShortWindow,
    /// One less than there is.
    SmallQuota,
    TooSlow,
    /// Days are those of UTC.
    UtcDays,
    /// A window ends when the wall clock says so.
    WallWindow,
    /// A dispatch is written down when the next one comes.
    WrittenLate,
}

impl Fault {
    pub(crate) const ALL: [Self; 31] = [
        Self::AnchorIgnored,
        Self::CancelTakesASlot,
        Self::ChildrenAreStrangers,
        Self::DayByDate,
        Self::FixedDay,
        Self::ForgetsAll,
        Self::ForgetsDays,
        Self::ForgetsWindows,
        Self::GivesBackBroken,
        Self::KeepsUnreached,
        Self::NoBound,
        Self::NoConcurrencyLimit,
        Self::NoEnd,
        Self::NoJitter,
        Self::NoOrder,
        Self::NoPause,
        Self::NoProbe,
        Self::NoShrink,
        Self::NoWakeOnDrop,
        Self::NoWindow,
        Self::PermitLeaks,
        Self::Race,
        Self::RetryQueuesAnew,
        Self::ShortGap,
        Self::ShortPause,
        Self::ShortWindow,
        Self::SmallQuota,
        Self::TooSlow,
        Self::UtcDays,
        Self::WallWindow,
        Self::WrittenLate,
    ];

    /// What it must be found as, and as what else a scenario may show it first.
    pub(crate) fn breaks(self) -> (Promise, &'static [Promise]) {
        use Promise as P;

        match self {
            Self::CancelTakesASlot => (P::Accounting, &[P::Bound, P::Ends, P::WorkConserving]),
            Self::ChildrenAreStrangers | Self::NoOrder => (P::Order, &[]),
            // Periods that begin at the wrong time are too short or too long.
            Self::AnchorIgnored | Self::DayByDate | Self::FixedDay | Self::UtcDays => {
                (P::Day, &[P::Bound, P::WorkConserving])
            }
            Self::ForgetsAll | Self::WrittenLate | Self::GivesBackBroken => (P::Day, &[P::Window]),
            Self::ForgetsDays => (P::Day, &[]),
            Self::ForgetsWindows => (P::Window, &[]),
            Self::KeepsUnreached => (P::Usage, &[P::Bound, P::WorkConserving]),
            Self::NoBound => (P::Bound, &[]),
            Self::NoConcurrencyLimit => (P::Concurrency, &[]),
            Self::NoEnd => (P::Exhausted, &[]),
            Self::NoJitter | Self::ShortGap => (P::Gap, &[]),
            Self::NoPause | Self::ShortPause => (P::Closing, &[]),
            Self::NoProbe => (P::Probe, &[]),
            Self::NoShrink => (P::Shrink, &[]),
            Self::NoWakeOnDrop => (P::Ends, &[P::Bound, P::WorkConserving]),
            Self::NoWindow | Self::ShortWindow => (P::Window, &[P::Shrink]),
            Self::PermitLeaks => (P::Ends, &[P::WorkConserving, P::Probe]),
            Self::Race => (
                P::Gap,
                &[
                    P::Accounting,
                    P::Bound,
                    P::Closing,
                    P::Concurrency,
                    P::Exhausted,
                    P::Order,
                    P::Window,
                    P::WorkConserving,
                ],
            ),
            Self::RetryQueuesAnew => (P::Order, &[P::Bound]),
            Self::SmallQuota => (P::WorkConserving, &[P::Bound]),
            Self::TooSlow => (P::WorkConserving, &[]),
            Self::WallWindow => (P::Window, &[P::Bound, P::WorkConserving]),
        }
    }

    /// Whether the book is not asked what is used: it would tell at once.
    pub(crate) fn hides_usage(self) -> bool {
        self != Self::KeepsUnreached
    }

    /// The settings of a gate that has the fault.
    pub(crate) fn pacing(self, scenario: &Scenario) -> Pacing {
        let pacing = scenario.pacing();
        match self {
            Self::NoBound => pacing
                .max_queue(usize::MAX)
                .max_wait(Duration::from_secs(400 * 86_400)),
            Self::NoConcurrencyLimit => pacing.concurrency(None),
            Self::NoJitter => pacing.jitter(Duration::ZERO..=Duration::ZERO).unwrap(),
            Self::NoOrder => pacing.order(match scenario.order {
                Order::Fair => Order::Fifo,
                Order::Fifo => Order::Fair,
            }),
            Self::ShortGap => pacing.min_interval(scenario.min_interval / 2),
            Self::TooSlow => pacing.min_interval(scenario.min_interval * 3),
            _ => pacing,
        }
    }

    /// The quotas of a book that has the fault.
    pub(crate) fn limits(self, scenario: &Scenario) -> Vec<config::Quota> {
        let changed = |quota: &config::Quota| {
            let mut quota = quota.clone();
            match (self, &mut quota.per) {
                (Self::AnchorIgnored, Per::Month { anchor_day, .. }) => *anchor_day = 1,
                (Self::DayByDate | Self::FixedDay, Per::Day { .. })
                | (Self::NoWindow | Self::WallWindow, Per::Window(_)) => return None,
                (Self::ShortWindow, Per::Window(per)) => *per /= 2,
                (Self::SmallQuota, _) => {
                    let less = quota.requests.get() - 1;
                    quota.requests = less.try_into().unwrap_or(quota.requests);
                }
                (Self::UtcDays, Per::Day { zone }) => *zone = "UTC".into(),
                _ => {}
            }
            Some(quota)
        };
        scenario.quotas.iter().filter_map(changed).collect()
    }

    /// What counts in the place of those.
    pub(crate) fn instead(self, scenario: &Scenario, wall: &WallClock) -> Vec<Arc<dyn Ledger>> {
        let way = |per: &Per| match (self, per) {
            (Self::DayByDate, Per::Day { zone }) => Some(Way::ByDate(TimeZone::get(zone).unwrap())),
            (Self::FixedDay, Per::Day { zone }) => {
                Some(Way::FixedDay(TimeZone::get(zone).unwrap()))
            }
            (Self::WallWindow, Per::Window(per)) if scenario.has_book => {
                Some(Way::WallWindow(*per))
            }
            _ => None,
        };
        let quotas = scenario.quotas.iter().filter_map(|quota| {
            let wrong = Wrong::new(quota.requests, Arc::clone(wall), way(&quota.per)?);
            Some(Arc::new(wrong) as Arc<dyn Ledger>)
        });
        quotas.collect()
    }

    /// What a process with the fault finds where `record` was kept.
    pub(crate) fn spoil(self, record: &str) -> Option<String> {
        let forgotten = match self {
            Self::ForgetsAll => return None,
            Self::ForgetsDays => "begun",
            Self::ForgetsWindows => "spent",
            _ => return Some(record.into()),
        };
        let mut record: serde_json::Value = serde_json::from_str(record).unwrap();
        let counts = record["counts"].as_array_mut().unwrap();
        counts.retain(|count| count.get(forgotten).is_none());
        Some(record.to_string())
    }
}
