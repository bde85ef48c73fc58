//! Where and when it happens, and what the account may use there.

use std::time::Duration;

use jiff::Timestamp;
use pacegate::config::{Per, Quota};
use rand::{RngExt, rngs::StdRng};

use super::{at_least_one, pick};

/// A time zone shortly before something happens to its calendar.
pub(super) struct Place {
    zone: &'static str,
    pub(super) begins: i64,
}

/// Days of 23, 23.5, 24.5 and 25 hours; days that begin at 01:00; midnights that come twice; and the
/// ends of a week, a month and a year.
const PLACES: [(&str, &str); 16] = [
    ("America/Havana", "2026-03-08T05:00:00Z"),
    ("America/Havana", "2026-11-01T05:00:00Z"),
    ("America/New_York", "2026-03-08T07:00:00Z"),
    ("America/New_York", "2026-11-01T06:00:00Z"),
    ("America/Santiago", "2026-04-05T03:00:00Z"),
    ("America/Santiago", "2026-09-06T04:00:00Z"),
    ("Asia/Beirut", "2026-03-28T22:00:00Z"),
    ("Asia/Beirut", "2026-10-24T21:00:00Z"),
    ("Asia/Kathmandu", "2027-02-28T18:15:00Z"),
    ("Asia/Shanghai", "2026-08-31T16:00:00Z"),
    ("Asia/Shanghai", "2026-04-19T16:00:00Z"),
    ("Australia/Lord_Howe", "2026-04-04T15:00:00Z"),
    ("Australia/Lord_Howe", "2026-10-03T15:30:00Z"),
    ("Europe/Berlin", "2026-03-29T01:00:00Z"),
    ("Europe/Berlin", "2026-10-25T01:00:00Z"),
    ("UTC", "2027-01-01T00:00:00Z"),
];

impl Place {
    pub(super) fn draw(rng: &mut StdRng) -> Self {
        let (zone, turn) = *pick(rng, &PLACES);
        let turn: Timestamp = turn.parse().unwrap();
        let before = rng.random_range(0..40 * 3_600_000_000_i64);
        Self {
            zone,
            begins: turn.as_microsecond() - before,
        }
    }

    /// A few for a book, no two over the same time.
    pub(super) fn quotas(&self, rng: &mut StdRng) -> Vec<Quota> {
        let mut quotas = windows(rng);
        if rng.random_bool(0.3) {
            let hours = *pick(rng, &[1, 5, 5]);
            quotas.push(window(rng.random_range(3..60), hours * 3600));
        }
        for _ in 0..rng.random_range(0..3) {
            let zone = if rng.random_bool(0.8) {
                self.zone
            } else {
                pick(rng, &PLACES).0
            };
            let zone = zone.into();
            let per = match rng.random_range(0..4) {
                0 => Per::Week { zone },
                1 => Per::Month {
                    zone,
                    anchor_day: *pick(rng, &[1, 7, 15, 28]),
                },
                _ => Per::Day { zone },
            };
            let most = *pick(rng, &[8, 30, 100]);
            let requests = at_least_one(rng.random_range(2..most));
            if quotas.iter().all(|known| known.per != per) {
                quotas.push(Quota { requests, per });
            }
        }
        quotas
    }
}

/// None, one or two that limit the rate.
pub(super) fn windows(rng: &mut StdRng) -> Vec<Quota> {
    match rng.random_range(0..3) {
        0 => Vec::new(),
        1 => vec![window(rng.random_range(5..60), 60)],
        _ => vec![
            window(rng.random_range(3..10), 10),
            window(rng.random_range(10..58), 60),
        ],
    }
}

fn window(requests: usize, seconds: u64) -> Quota {
    Quota {
        requests: at_least_one(requests),
        per: Per::Window(Duration::from_secs(seconds)),
    }
}
