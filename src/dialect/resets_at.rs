//! Computes the time until a named reset.

use std::time::{Duration, SystemTime};

use jiff::{Timestamp, tz::TimeZone};

use crate::{
    calendar::{Calendar, Unit},
    config::ResetsAt,
};

/// How long from `now` to the reset; `None` if that is unknown.
pub(super) fn reset(resets_at: &ResetsAt, now: SystemTime) -> Option<Duration> {
    match resets_at {
        ResetsAt::AtMost(longest) => Some(*longest),
        ResetsAt::Day(zone) => until_the_end(zone, Unit::Day, now),
        ResetsAt::Month { zone, anchor_day } => {
            let anchor_day = i8::try_from((*anchor_day)?).ok()?;
            until_the_end(zone, Unit::Month(anchor_day), now)
        }
        ResetsAt::Unknown => None,
        ResetsAt::Week(zone) => until_the_end(zone, Unit::Week, now),
    }
}

/// From `now` to the end of the day, week or month that contains it.
fn until_the_end(zone: &TimeZone, unit: Unit, now: SystemTime) -> Option<Duration> {
    let now = Timestamp::try_from(now).ok()?.as_millisecond();
    let zone = zone.clone();
    let end = Calendar { zone, unit }.period_at(now).end;
    // The calendar cannot express the next date.
    if end == i64::MAX {
        return None;
    }
    u64::try_from(end.checked_sub(now)?)
        .ok()
        .map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn zone(name: &str) -> TimeZone {
        TimeZone::get(name).unwrap()
    }

    /// In hours.
    fn hours(until: &ResetsAt, now: &str) -> Option<f64> {
        let now: Timestamp = now.parse().unwrap();
        let now = SystemTime::try_from(now).unwrap();
        Some(reset(until, now)?.as_secs_f64() / 3600.0)
    }

    /// Monday, 20:00 in Shanghai.
    const NOW: &str = "2026-11-23T12:00:00Z";

    #[test]
    fn a_day_ends_at_the_zones_own_midnight() {
        let day = |name| ResetsAt::Day(zone(name));
        assert_eq!(hours(&day("Asia/Shanghai"), NOW), Some(4.0));
        assert_eq!(hours(&day("UTC"), NOW), Some(12.0));
        assert_eq!(hours(&day("America/Los_Angeles"), NOW), Some(20.0));
        assert_eq!(hours(&day("UTC"), "2026-11-23T00:00:00Z"), Some(24.0));
    }

    #[test]
    fn a_day_with_a_clock_change_has_23_or_25_hours() {
        let berlin = ResetsAt::Day(zone("Europe/Berlin"));
        assert_eq!(hours(&berlin, "2026-03-28T23:00:00Z"), Some(23.0));
        assert_eq!(hours(&berlin, "2026-10-24T22:00:00Z"), Some(25.0));
    }

    #[test]
    fn a_week_ends_on_monday() {
        let week = ResetsAt::Week(zone("Asia/Shanghai"));
        assert_eq!(hours(&week, NOW), Some(6.0 * 24.0 + 4.0));
        assert_eq!(hours(&week, "2026-11-22T15:00:00Z"), Some(1.0));
    }

    #[test]
    fn a_month_ends_on_its_anchor_day_if_known() {
        let month = |anchor_day| ResetsAt::Month {
            zone: zone("Asia/Shanghai"),
            anchor_day,
        };
        assert_eq!(hours(&month(Some(1)), NOW), Some(7.0 * 24.0 + 4.0));
        assert_eq!(hours(&month(Some(24)), NOW), Some(4.0));
        assert_eq!(hours(&month(Some(23)), NOW), Some(29.0 * 24.0 + 4.0));
        assert_eq!(hours(&month(None), NOW), None);
    }

    #[test]
    fn a_rolling_window_resets_after_its_length_an_unknown_one_never() {
        let rolling = ResetsAt::AtMost(Duration::from_secs(5 * 3600));
        assert_eq!(hours(&rolling, NOW), Some(5.0));
        assert_eq!(hours(&ResetsAt::Unknown, NOW), None);
    }

    proptest! {
        #[test]
        fn every_reset_is_ahead_and_within_its_period(seconds in 0u64..4_000_000_000, anchor in 1u8..=28) {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            for name in ["UTC", "Asia/Shanghai", "America/Los_Angeles", "America/Santiago"] {
                let month = ResetsAt::Month { zone: zone(name), anchor_day: Some(anchor) };
                for (until, days) in [(ResetsAt::Day(zone(name)), 1), (ResetsAt::Week(zone(name)), 7), (month, 31)] {
                    let reset = reset(&until, now).unwrap();
                    // An hour for a change of the clock.
                    let longest = Duration::from_secs(days * 24 * 3600 + 3600);
                    prop_assert!(!reset.is_zero() && reset <= longest, "{until:?} {reset:?}");
                }
            }
        }
    }
}
