//! Whatever happens: never more than N, as somebody counts who knows the true time.

use std::{collections::HashMap, env, thread};

use jiff::{ToSpan, civil::Date, tz::TimeZone};
use pacegate_layers::jitter_throttle::Window;
use proptest::{collection::vec, prelude::*, test_runner::TestRunner};
use tokio::runtime;

use super::*;

#[derive(Clone, Debug)]
enum Event {
    /// Time passes.
    Advance(i64),
    /// No connection was made for one of the latest dispatches.
    GiveBack(usize),
    /// The process ends, and another one begins so much later.
    Restart(i64),
    /// Somebody sets the clock.
    Set(i64),
    /// So many requests come at once; those that find no room go.
    Burst(usize),
    /// Somebody waits for as long as it is told to, then sends.
    Wait,
}

/// Counts on its own, without boundaries: by the date that each dispatch had.
struct Witness {
    dispatches: Vec<Dispatch>,
    /// The latest that the clock has shown, and what of it was on disk when, in true time.
    latest: Timestamp,
    kept: (Timestamp, i64),
    /// Time that passed between two processes as far as anybody could know, and did not.
    slipped: i64,
}

struct Dispatch {
    /// `None` once the process has ended that could still give it back.
    instant: Option<Instant>,
    even: i64,
    civil: Timestamp,
    given_back: bool,
}

impl Witness {
    fn look(&mut self, machine: &Machine) {
        self.latest = self.latest.max(machine.shown());
    }

    fn keep(&mut self, machine: &Machine) {
        self.look(machine);
        self.kept = (self.latest, true_time(machine));
    }

    fn spent(&mut self, machine: &Machine) {
        self.keep(machine);
        self.dispatches.push(Dispatch {
            instant: Some(Instant::now()),
            even: true_time(machine) + self.slipped,
            civil: self.latest,
            given_back: false,
        });
    }

    fn restarted(&mut self, machine: &Machine) {
        let shown = machine.shown().as_microsecond() - self.kept.0.as_microsecond();
        let passed = true_time(machine) - self.kept.1;
        self.slipped += (shown - passed).max(0);
        self.latest = self.kept.0;
        self.keep(machine);
        for dispatch in &mut self.dispatches {
            dispatch.instant = None;
        }
    }

    fn most(&self, quota: &Quota) -> usize {
        let counted = |dispatch: &&Dispatch| !dispatch.given_back;
        let dates = |date: &dyn Fn(Date) -> Date, zone: &str| {
            let zone = TimeZone::get(zone).unwrap();
            let mut counts: HashMap<Date, usize> = HashMap::new();
            for dispatch in self.dispatches.iter().filter(counted) {
                let civil = dispatch.civil.to_zoned_datetime(zone.clone()).date();
                *counts.entry(date(civil)).or_default() += 1;
            }
            counts.into_values().max().unwrap_or(0)
        };
        match &quota.per {
            Per::Day { zone } => dates(&|date| date, zone),
            Per::Week { zone } => dates(
                &|date| {
                    let mut monday = date;
                    while monday.weekday() != jiff::civil::Weekday::Monday {
                        monday = monday.yesterday().unwrap();
                    }
                    monday
                },
                zone,
            ),
            Per::Month { zone, anchor_day } => dates(
                // A month that begins on day 7 is a month of a calendar that is six days behind.
                &|date| {
                    let behind = i64::from(*anchor_day) - 1;
                    date.checked_sub(behind.days()).unwrap().first_of_month()
                },
                zone,
            ),
            Per::Window(per) => {
                let all = *per < Duration::from_secs(3600);
                let per = i64::try_from(per.as_micros()).unwrap();
                let counts: Vec<i64> = self
                    .dispatches
                    .iter()
                    .filter(|dispatch| all || !dispatch.given_back)
                    .map(|dispatch| dispatch.even)
                    .collect();
                let within = |last: &i64| {
                    let first = last - per;
                    counts
                        .iter()
                        .filter(|at| **at > first && *at <= last)
                        .count()
                };
                counts.iter().map(within).max().unwrap_or(0)
            }
        }
    }
}

/// In microseconds, like everything the witness counts in.
fn true_time(machine: &Machine) -> i64 {
    i64::try_from(machine.start.1.elapsed().as_micros()).unwrap()
}

/// About so many milliseconds: time does not pass in whole ones.
fn about(millis: i64) -> Duration {
    let millis = millis.unsigned_abs();
    Duration::from_millis(millis) + Duration::from_micros(millis * 337 % 1000)
}

fn quotas() -> impl Strategy<Value = Vec<Quota>> {
    let zone = || {
        prop::sample::select(vec![
            "America/New_York",
            "Asia/Shanghai",
            "Australia/Lord_Howe",
            "Europe/Berlin",
            "UTC",
        ])
    };
    let per = prop_oneof![
        (1..300_u64).prop_map(|seconds| Per::Window(Duration::from_secs(seconds))),
        (1..6_u64).prop_map(|hours| Per::Window(Duration::from_secs(hours * 3600))),
        zone().prop_map(|zone| Per::Day { zone: zone.into() }),
        zone().prop_map(|zone| Per::Week { zone: zone.into() }),
        (zone(), 1..=28_u8).prop_map(|(zone, anchor_day)| Per::Month {
            zone: zone.into(),
            anchor_day,
        }),
    ];
    vec(
        (1..12_usize, per).prop_map(|(requests, per)| quota(requests, per)),
        1..4,
    )
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let time = || prop_oneof![0..3_000_i64, 0..2 * HOUR, 0..2 * DAY];
    vec(
        prop_oneof![
            time().prop_map(Event::Advance),
            (0..4_usize).prop_map(Event::GiveBack),
            time().prop_map(Event::Restart),
            (time(), any::<bool>()).prop_map(|(by, back)| Event::Set(if back { -by } else { by })),
            (1..8_usize).prop_map(Event::Burst),
            Just(Event::Wait),
        ],
        1..60,
    )
}

/// Days on which clocks are about to change somewhere, and the end of a year.
fn start() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "2026-03-07T20:00:00Z",
        "2026-03-28T12:00:00Z",
        "2026-04-03T20:00:00Z",
        "2026-10-03T02:00:00Z",
        "2026-10-24T12:00:00.5Z",
        "2026-10-31T12:00:00Z",
        "2026-12-30T12:00:00Z",
    ])
}

async fn live(machine: &Machine, quotas: &[Quota], events: &[Event]) -> Witness {
    let mut book = machine.open(quotas);
    let mut witness = Witness {
        dispatches: Vec::new(),
        latest: machine.shown(),
        kept: (machine.shown(), 0),
        slipped: 0,
    };
    for event in events {
        match event {
            Event::Advance(by) => advance(about(*by)).await,
            Event::Burst(count) => {
                for _ in 0..*count {
                    witness.look(machine);
                    if book.has_room() {
                        book.spend();
                        witness.spent(machine);
                    }
                }
            }
            Event::GiveBack(back) => {
                let latest = witness.dispatches.iter_mut().rev().nth(*back);
                if let Some(dispatch) = latest
                    && let Some(instant) = dispatch.instant.take()
                {
                    dispatch.given_back = true;
                    book.give_back(instant);
                    witness.keep(machine);
                }
            }
            Event::Restart(after) => {
                drop(book);
                advance(about(*after)).await;
                book = machine.open(quotas);
                witness.restarted(machine);
            }
            Event::Set(by) => machine.set_clock(*by),
            Event::Wait => {
                witness.look(machine);
                if let Some(room) = book.room(0, Share::WHOLE) {
                    sleep_until(room).await;
                }
                assert!(book.has_room(), "it was told so");
                book.spend();
                witness.spent(machine);
            }
        }
    }
    witness
}

/// Lives of an account: enough to meet every rare mixture. `SCENARIOS=100000 cargo test --lib
/// quotas::` lives more of them.
fn scenarios() -> u32 {
    let asked = env::var("SCENARIOS").ok();
    asked.and_then(|count| count.parse().ok()).unwrap_or(20_000)
}

/// Lives one with restarts, clocks that are set and zones with summer time, and counts.
fn live_one(quotas: &[Quota], start: &str, events: &[Event]) {
    let runtime = runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    runtime.unwrap().block_on(async {
        let machine = Machine::at(start);
        let witness = live(&machine, quotas, events).await;
        for quota in quotas {
            let most = witness.most(quota);
            assert!(most <= quota.requests.get(), "{most} of {quota:?}");
        }
    });
}

/// On all cores, because it is the longest of all unit tests.
#[test]
fn never_more_than_n_in_any_window_day_week_or_month() {
    let workers = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let each = scenarios().div_ceil(u32::try_from(workers).unwrap());
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let mut runner = TestRunner::new(ProptestConfig::with_cases(each));
                let lives = (quotas(), start(), events());
                let lived = runner.run(&lives, |(quotas, start, events)| {
                    live_one(&quotas, start, &events);
                    Ok(())
                });
                lived.unwrap();
            });
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_window_that_lives_as_long_as_its_process_is_exact(requests in 1..9_usize, steps in vec((0..40_000_u64, 0..20_usize), 1..80)) {
        let runtime = runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(async {
            let machine = Machine::at("2026-04-15T12:00:00Z");
            let quota = window(requests, 60);
            let exact = Window::new(quota.requests, Duration::from_secs(60));
            let book = Book::open("mine", &[quota], None, machine.wall()).unwrap();
            for (micros, ahead) in steps {
                advance(Duration::from_micros(micros * 997)).await;
                let at = |room: Option<Instant>| room.unwrap_or_else(Instant::now);
                let (ours, theirs) = (at(book.room(ahead, Share::WHOLE)), at(exact.room(ahead, Share::WHOLE)));
                let late = ours.duration_since(theirs);
                assert!(ours >= theirs && late <= Duration::from_millis(2), "{late:?}");
                if theirs_has_room(&exact) {
                    book.spend();
                    exact.spend();
                }
            }
        });
    }
}

fn theirs_has_room(window: &Window) -> bool {
    window.room(0, Share::WHOLE).is_none()
}

#[tokio::test(start_paused = true)]
async fn a_large_window_fits_into_a_small_file_and_still_holds() {
    let machine = Machine::at("2026-04-15T12:00:00Z");
    let quotas = [window(6000, 5 * 3600)];
    let mut book = machine.open(&quotas);
    let mut spent: Vec<Instant> = Vec::new();
    // At a steady rate until it is full, then as fast as it allows.
    for turn in 0..9000 {
        if turn < 6000 {
            advance(Duration::from_secs(1 + turn % 3)).await;
        }
        if turn % 1000 == 0 {
            drop(book);
            book = machine.open(&quotas);
        }
        if let Some(room) = book.room(0, Share::WHOLE) {
            sleep_until(room).await;
        }
        book.spend();
        spent.push(Instant::now());
    }
    let per = Duration::from_secs(5 * 3600);
    for pair in spent.windows(6001) {
        let apart = pair[6000] - pair[0];
        assert!(apart >= per, "{apart:?}");
    }
    let length = fs::metadata(machine.file()).unwrap().len();
    assert!(length < 8 * 1024, "{length} bytes");

    let exact = [window(512, 3600)];
    drop(book);
    let book = machine.open(&exact);
    for _ in 0..512 {
        book.spend();
        advance(Duration::from_millis(5)).await;
    }
    let length = fs::metadata(machine.file()).unwrap().len();
    assert!(length < 16 * 1024, "{length} bytes");
}
