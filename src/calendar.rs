//! Calendar days, weeks and months in a named time zone.

use jiff::{Timestamp, ToSpan, civil::Date, tz::TimeZone};

/// Divides time into the days, weeks or months of a time zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Calendar {
    pub(crate) zone: TimeZone,
    pub(crate) unit: Unit,
}

/// How long a period is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// From 00:00 to the next 00:00.
    Day,
    /// From Monday 00:00.
    Week,
    /// From 00:00 of this day of the month, 1 to 28.
    Month(i8),
}

/// One period. Its first date identifies it and stays the same if the zone's rules change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Period {
    pub(crate) begun: Date,
    /// The first moment of the next one, in milliseconds since 1970.
    pub(crate) end: i64,
}

// === impl Calendar ===

impl Calendar {
    /// The period that contains `time`, in milliseconds since 1970.
    pub(crate) fn period_at(&self, time: i64) -> Period {
        let time = Timestamp::from_millisecond(time).unwrap_or(Timestamp::MAX);
        let date = time.to_zoned_datetime(self.zone.clone()).date();
        self.period_from(match self.unit {
            Unit::Day => date,
            Unit::Week => {
                date.saturating_sub(i64::from(date.weekday().to_monday_zero_offset()).days())
            }
            Unit::Month(anchor) => {
                let since = i64::from(date.day() - anchor);
                let last = if since < 0 {
                    date.saturating_sub(1.month())
                } else {
                    date
                };
                last.with().day(anchor).build().unwrap_or(last)
            }
        })
    }

    /// The period that begins on the date `begun`.
    pub(crate) fn period_from(&self, begun: Date) -> Period {
        let next = begun.saturating_add(match self.unit {
            Unit::Day => 1.day(),
            Unit::Week => 1.week(),
            Unit::Month(_) => 1.month(),
        });
        Period {
            begun,
            end: self.first_moment(next),
        }
    }

    /// 00:00, or the first moment after it where the clocks skip midnight.
    fn first_moment(&self, date: Date) -> i64 {
        date.to_zoned_datetime(self.zone.clone())
            // Dates after the calendar's last year are never reached.
            .map_or(i64::MAX, |start| start.timestamp().as_millisecond())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calendar(zone: &str, unit: Unit) -> Calendar {
        let zone = TimeZone::get(zone).unwrap();
        Calendar { zone, unit }
    }

    fn millis(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    /// The period at `time`: its first date, and its end in UTC.
    fn period(zone: &str, unit: Unit, time: &str) -> (String, String) {
        let period = calendar(zone, unit).period_at(millis(time));
        let end = Timestamp::from_millisecond(period.end).unwrap();
        (period.begun.to_string(), end.to_string())
    }

    fn expected(begun: &str, end: &str) -> (String, String) {
        (begun.into(), end.into())
    }

    #[test]
    fn a_day_ends_at_midnight_of_its_zone() {
        for (zone, time, begun, end) in [
            (
                "Asia/Shanghai",
                "2026-04-15T15:59:59.999Z",
                "2026-04-15",
                "2026-04-15T16:00:00Z",
            ),
            (
                "Asia/Shanghai",
                "2026-04-15T16:00:00Z",
                "2026-04-16",
                "2026-04-16T16:00:00Z",
            ),
            // 23 and 25 hours long.
            (
                "Europe/Berlin",
                "2026-03-28T23:00:00Z",
                "2026-03-29",
                "2026-03-29T22:00:00Z",
            ),
            (
                "America/New_York",
                "2026-11-01T04:00:00Z",
                "2026-11-01",
                "2026-11-02T05:00:00Z",
            ),
            // Half an hour longer.
            (
                "Australia/Lord_Howe",
                "2026-04-04T14:00:00Z",
                "2026-04-05",
                "2026-04-05T13:30:00Z",
            ),
            // Clocks go from 23:59 to 01:00: the day begins with the first moment there is.
            (
                "Asia/Beirut",
                "2026-03-28T21:59:00Z",
                "2026-03-28",
                "2026-03-28T22:00:00Z",
            ),
        ] {
            assert_eq!(
                period(zone, Unit::Day, time),
                expected(begun, end),
                "{zone} {time}"
            );
        }
    }

    #[test]
    fn a_week_begins_on_monday() {
        for (time, begun, end) in [
            ("2026-04-12T15:59:59Z", "2026-04-06", "2026-04-12T16:00:00Z"),
            ("2026-04-12T16:00:00Z", "2026-04-13", "2026-04-19T16:00:00Z"),
        ] {
            assert_eq!(
                period("Asia/Shanghai", Unit::Week, time),
                expected(begun, end)
            );
        }
    }

    #[test]
    fn a_month_begins_on_its_anchor_day() {
        for (anchor, time, begun, end) in [
            (
                1,
                "2026-02-28T23:59:59Z",
                "2026-02-01",
                "2026-03-01T00:00:00Z",
            ),
            (
                15,
                "2026-03-14T23:59:59Z",
                "2026-02-15",
                "2026-03-15T00:00:00Z",
            ),
            (
                15,
                "2026-03-15T00:00:00Z",
                "2026-03-15",
                "2026-04-15T00:00:00Z",
            ),
            // From a month's last day back into one that is shorter.
            (
                28,
                "2026-03-27T00:00:00Z",
                "2026-02-28",
                "2026-03-28T00:00:00Z",
            ),
            (
                15,
                "2026-01-02T00:00:00Z",
                "2025-12-15",
                "2026-01-15T00:00:00Z",
            ),
        ] {
            assert_eq!(
                period("UTC", Unit::Month(anchor), time),
                expected(begun, end)
            );
        }
    }
}
