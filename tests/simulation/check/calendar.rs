//! Days, weeks and months, told by dates alone: no boundary is computed, each is looked for.

use jiff::{
    Timestamp, ToSpan,
    civil::{Date, Weekday},
    tz::TimeZone,
};
use pacegate::config::Per;

/// Names the period of a calendar that a time is in, by a date that only it has.
pub(super) struct Calendar {
    zone: TimeZone,
    unit: Unit,
}

enum Unit {
    Day,
    Month { behind: i64 },
    Week,
}

/// Longer than a month.
const LONG: i64 = 40 * 86_400_000_000;

// === impl Calendar ===

impl Calendar {
    /// `None` for a window.
    pub(super) fn of(per: &Per) -> Option<Self> {
        let (zone, unit) = match per {
            Per::Day { zone } => (zone, Unit::Day),
            Per::Week { zone } => (zone, Unit::Week),
            // A month that begins on day 7 is a month of a calendar that is six days behind.
            Per::Month { zone, anchor_day } => {
                let behind = i64::from(*anchor_day) - 1;
                (zone, Unit::Month { behind })
            }
            Per::Window(_) => return None,
        };
        let zone = TimeZone::get(zone).unwrap();
        Some(Self { zone, unit })
    }

    pub(super) fn period(&self, micros: i64) -> Date {
        let time = Timestamp::from_microsecond(micros).unwrap();
        let mut date = self.zone.to_datetime(time).date();
        match self.unit {
            Unit::Day => date,
            Unit::Week => {
                while date.weekday() != Weekday::Monday {
                    date = date.yesterday().unwrap();
                }
                date
            }
            Unit::Month { behind } => (date - behind.days()).first_of_month(),
        }
    }

    /// When the period that `micros` is in is over.
    pub(super) fn end(&self, micros: i64) -> i64 {
        let period = self.period(micros);
        let (mut inside, mut after) = (micros, micros + LONG);
        while after - inside > 1 {
            let between = inside + (after - inside) / 2;
            if self.period(between) == period {
                inside = between;
            } else {
                after = between;
            }
        }
        after
    }
}
