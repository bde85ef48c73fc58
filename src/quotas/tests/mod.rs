//! Ledgers on a paused clock, with a wall clock that can be set, in a directory that outlives them.

use std::{
    fs,
    num::NonZeroUsize,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use pacegate_layers::pacing::{Fraction, Ledger as _};
use tempfile::TempDir;
use tokio::time::{Instant, advance, sleep_until};

use super::*;
use crate::config::{Per, Quota};

mod failures;
mod windows;

/// A machine: a clock and a disk.
struct Machine {
    disk: TempDir,
    start: (SystemTime, Instant),
    /// By how many milliseconds the wall clock has been set.
    set: Arc<AtomicI64>,
}

impl Machine {
    /// Switched on at `time` (RFC 3339).
    fn at(time: &str) -> Self {
        // In memory if possible: a large window writes ten thousand times.
        let disk = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        Self {
            disk: disk.unwrap(),
            start: (wall_time(time), Instant::now()),
            set: Arc::default(),
        }
    }

    fn wall(&self) -> WallClock {
        let (set, (wall, instant)) = (Arc::clone(&self.set), self.start);
        Arc::new(move || {
            let shown = wall + instant.elapsed();
            let by = set.load(Ordering::Relaxed);
            let far = Duration::from_millis(by.unsigned_abs());
            if by < 0 { shown - far } else { shown + far }
        })
    }

    fn set_clock(&self, by: i64) {
        self.set.fetch_add(by, Ordering::Relaxed);
    }

    fn directory(&self) -> PathBuf {
        self.disk.path().join("state")
    }

    fn file(&self) -> PathBuf {
        self.directory().join("quotas-mine.json")
    }

    fn try_open(&self, quotas: &[Quota]) -> Result<QuotaLedger, OpenError> {
        QuotaLedger::open("mine", quotas, Some(&self.directory()), self.wall())
    }

    fn open(&self, quotas: &[Quota]) -> QuotaLedger {
        self.try_open(quotas).unwrap()
    }
}

impl QuotaLedger {
    fn has_room(&self) -> bool {
        self.next_slot(0, Fraction::WHOLE).is_none()
    }

    /// Dispatches a request, whether there is room or not.
    fn record(&self) {
        self.count();
        self.left();
    }

    /// Dispatches until there is no room, and returns how many that were.
    fn spend_all(&self) -> usize {
        let mut spent = 0;
        while self.has_room() {
            self.record();
            spent += 1;
        }
        spent
    }

    fn used(&self) -> Vec<usize> {
        self.usage().iter().map(|usage| usage.used).collect()
    }
}

fn wall_time(text: &str) -> SystemTime {
    let time: Timestamp = text.parse().unwrap();
    time.try_into().unwrap()
}

fn quota(requests: usize, per: Per) -> Quota {
    let requests = NonZeroUsize::new(requests).unwrap();
    Quota { requests, per }
}

fn window(requests: usize, seconds: u64) -> Quota {
    quota(requests, Per::Window(Duration::from_secs(seconds)))
}

fn day(requests: usize, zone: &str) -> Quota {
    let zone = zone.into();
    quota(requests, Per::Day { zone })
}

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

#[tokio::test(start_paused = true)]
async fn opens_at_midnight_in_shanghai_also_across_a_restart() {
    // 23:58 there.
    let machine = Machine::at("2026-04-15T15:58:00Z");
    let quotas = [day(3, "Asia/Shanghai")];
    let midnight = Instant::now() + Duration::from_secs(120);
    let ledger = machine.open(&quotas);
    assert_eq!(ledger.spend_all(), 3);
    assert_eq!(ledger.next_slot(0, Fraction::WHOLE), Some(midnight));
    drop(ledger);

    advance(Duration::from_secs(60)).await;
    let ledger = machine.open(&quotas);
    assert_eq!(ledger.next_slot(0, Fraction::WHOLE), Some(midnight));
    sleep_until(midnight - Duration::from_millis(1)).await;
    assert!(!ledger.has_room());
    sleep_until(midnight).await;
    assert_eq!(ledger.spend_all(), 3);
    drop(ledger);

    let ledger = machine.open(&quotas);
    assert!(!ledger.has_room());
    drop(ledger);
    advance(Duration::from_secs(24 * 3600)).await;
    assert_eq!(machine.open(&quotas).spend_all(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_window_goes_on_across_a_restart() {
    let machine = Machine::at("2026-04-15T12:00:00Z");
    let ledger = machine.open(&[window(2, 60)]);
    let start = Instant::now();
    ledger.record();
    advance(Duration::from_secs(10)).await;
    ledger.record();
    drop(ledger);
    advance(Duration::from_secs(20)).await;
    let ledger = machine.open(&[window(2, 60)]);
    let late = ledger.next_slot(0, Fraction::WHOLE).unwrap() - (start + Duration::from_secs(60));
    assert!(late <= Duration::from_millis(1), "{late:?}");
    drop(ledger);
    advance(Duration::from_secs(35)).await;
    assert_eq!(machine.open(&[window(2, 60)]).spend_all(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_goes_back_hands_out_no_day_twice() {
    let machine = Machine::at("2026-04-15T12:00:00Z");
    let quotas = [day(5, "UTC")];
    let ledger = machine.open(&quotas);
    assert_eq!(ledger.spend_all(), 5);
    machine.set_clock(-DAY);
    assert!(!ledger.has_room());
    drop(ledger);
    let ledger = machine.open(&quotas);
    assert!(!ledger.has_room());
    // The reset time is when the clock has caught up.
    let open = ledger.next_slot(0, Fraction::WHOLE).unwrap() - Instant::now();
    assert_eq!(open, Duration::from_secs(36 * 3600));
    assert_eq!(ledger.usage()[0].resets, wall_time("2026-04-16T00:00:00Z"));
    advance(open).await;
    assert_eq!(ledger.spend_all(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_does_not_shorten_a_window() {
    let machine = Machine::at("2026-04-15T12:00:00Z");
    let quotas = [window(3, 60)];
    let ledger = machine.open(&quotas);
    assert_eq!(ledger.spend_all(), 3);
    machine.set_clock(DAY);
    assert!(!ledger.has_room());
    machine.set_clock(-3 * DAY);
    assert!(!ledger.has_room());
    drop(ledger);
    let ledger = machine.open(&quotas);
    assert!(!ledger.has_room());
    advance(Duration::from_secs(60)).await;
    assert_eq!(ledger.spend_all(), 3);
}

#[tokio::test(start_paused = true)]
async fn refusals_shrink_short_windows_and_nothing_else() {
    let machine = Machine::at("2026-04-15T12:00:00Z");
    let shrunk = |quota| {
        let ledger = QuotaLedger::open("mine", &[quota], None, machine.wall()).unwrap();
        (0..10).for_each(|_| ledger.record());
        ledger.next_slot(0, Fraction::SHRUNK).is_some()
    };
    assert!(shrunk(window(11, 60)));
    assert!(shrunk(window(11, 3600)));
    assert!(!shrunk(window(11, 3601)));
    assert!(!shrunk(day(11, "UTC")));
}

#[tokio::test(start_paused = true)]
async fn what_was_not_sent_is_given_back_where_only_the_upstream_counts() {
    let machine = Machine::at("2026-04-15T12:00:00Z");
    let quotas = [window(3, 60), window(3, 5 * 3600), day(3, "UTC")];
    let ledger = machine.open(&quotas);
    advance(Duration::from_millis(1)).await;
    let first = Instant::now();
    ledger.record();
    advance(Duration::from_millis(1)).await;
    ledger.record();
    ledger.unsent(first);
    assert_eq!(ledger.used(), [2, 1, 1]);
    drop(ledger);
    let ledger = machine.open(&quotas);
    assert_eq!(ledger.used(), [2, 1, 1]);
    // The first dispatch was refunded.
    let next = ledger.usage()[1].resets;
    advance(Duration::from_secs(5 * 3600)).await;
    assert!(next <= machine.wall()() + Duration::from_millis(3));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_given_back_to_a_day_that_did_not_pay() {
    let machine = Machine::at("2026-04-15T23:59:59Z");
    let ledger = machine.open(&[day(3, "UTC")]);
    let yesterday = Instant::now();
    ledger.record();
    advance(Duration::from_secs(2)).await;
    ledger.record();
    ledger.unsent(yesterday);
    assert_eq!(ledger.used(), [1]);
    advance(Duration::from_secs(1)).await;
    ledger.unsent(Instant::now());
    assert_eq!(ledger.used(), [0]);
}

/// A regression: the day that begins with the refunded dispatch kept it, so the first request after
/// midnight whose connection failed cost one of the day's.
#[tokio::test(start_paused = true)]
async fn the_first_of_a_day_is_given_back_too() {
    let machine = Machine::at("2026-04-15T23:59:59Z");
    let ledger = machine.open(&[day(3, "UTC")]);
    advance(Duration::from_secs(1)).await;
    assert!(ledger.has_room());
    let first = Instant::now();
    ledger.record();
    ledger.unsent(first);
    assert_eq!(ledger.used(), [0]);
}

#[tokio::test(start_paused = true)]
async fn an_estimate_goes_on_beyond_the_next_period() {
    let machine = Machine::at("2026-04-15T12:00:00Z");
    let ledger = machine.open(&[day(2, "UTC")]);
    ledger.record();
    let start = Instant::now();
    let hours = |ahead| {
        let room = ledger.next_slot(ahead, Fraction::WHOLE);
        room.map(|at| (at - start).as_secs() / 3600)
    };
    let expected = [None, Some(12), Some(12), Some(36), Some(36), Some(60)];
    assert_eq!([0, 1, 2, 3, 4, 5].map(hours), expected);
}

#[tokio::test(start_paused = true)]
async fn limits_may_change_and_counts_stay_but_another_zone_starts_anew() {
    let machine = Machine::at("2026-04-15T12:00:00Z");
    let ledger = machine.open(&[window(58, 60), day(10, "Asia/Shanghai")]);
    (0..7).for_each(|_| ledger.record());
    drop(ledger);
    let changed = [window(5, 60), day(20, "Asia/Shanghai"), window(5, 30)];
    let ledger = machine.open(&changed);
    assert_eq!(ledger.used(), [7, 7, 0]);
    assert!(!ledger.has_room());
    drop(ledger);
    let ledger = machine.open(&[day(10, "Europe/Berlin"), window(600, 60)]);
    assert_eq!(ledger.used(), [0, 7]);
}

#[tokio::test(start_paused = true)]
async fn usage_says_how_much_and_until_when() {
    let machine = Machine::at("2026-04-15T12:00:00Z");
    let week = quota(
        45_000,
        Per::Week {
            zone: "Asia/Shanghai".into(),
        },
    );
    let month = quota(
        90_000,
        Per::Month {
            zone: "UTC".into(),
            anchor_day: 7,
        },
    );
    let ledger = machine.open(&[window(58, 60), day(1000, "UTC"), week.clone(), month, week]);
    let idle = ledger.usage();
    assert_eq!(idle[0].resets, machine.wall()());
    advance(Duration::from_secs(5)).await;
    ledger.record();
    let usage: Vec<_> = ledger
        .usage()
        .into_iter()
        .map(|usage| {
            let resets = Timestamp::try_from(usage.resets).unwrap();
            format!(
                "{}: {} of {}, {resets}",
                usage.quota, usage.used, usage.limit
            )
        })
        .collect();
    assert_eq!(
        usage,
        [
            "58 per 1m: 1 of 58, 2026-04-15T12:01:05Z",
            "1000 per day (UTC): 1 of 1000, 2026-04-16T00:00:00Z",
            "45000 per week (Asia/Shanghai): 1 of 45000, 2026-04-19T16:00:00Z",
            "90000 per month from day 7 (UTC): 1 of 90000, 2026-05-07T00:00:00Z",
        ]
    );
}
