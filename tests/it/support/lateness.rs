//! How late this machine is while a test runs. A bound on how long something may take allows for
//! that; what is exceeded on a calm machine fails as it should.

use std::{
    fs,
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::time::Instant;

/// How often to look whether it is late.
const TICK: Duration = Duration::from_millis(2);

/// What a timer may be late by on a machine that does nothing else.
const USUAL: Duration = Duration::from_millis(1);

/// Where Linux says for how long something had to wait for a processor.
const PRESSURE: &str = "/proc/pressure/cpu";

/// Looks from its start to its end, in a thread of its own.
pub(crate) struct Lateness {
    seen: Arc<Seen>,
    stalled_before: Duration,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Seen {
    /// The most by which one tick was late, and all of them together, in microseconds.
    most: AtomicU64,
    total: AtomicU64,
    over: AtomicBool,
}

// === impl Lateness ===

impl Lateness {
    pub(crate) fn watch() -> Self {
        let seen = Arc::new(Seen::default());
        let ticking = Arc::clone(&seen);
        Self {
            seen,
            stalled_before: stalled(),
            thread: Some(thread::spawn(move || ticking.tick())),
        }
    }

    /// The most by which something that was due may have been late so far.
    pub(crate) fn most(&self) -> Duration {
        Duration::from_micros(self.seen.most.load(Ordering::Relaxed))
    }

    /// What has been lost so far: how late all ticks were together, or for how long something had
    /// to wait for a processor, whichever is more.
    pub(crate) fn total(&self) -> Duration {
        let late = Duration::from_micros(self.seen.total.load(Ordering::Relaxed));
        late.max(stalled().saturating_sub(self.stalled_before))
    }

    /// Checks that `what` took no longer than `limit`, and what this machine was late meanwhile.
    #[track_caller]
    pub(crate) fn assert_within(&self, what: &str, took: Duration, limit: Duration) {
        let late = self.total();
        assert!(
            took <= limit + late,
            "{what}: {took:?} of {limit:?}, {late:?} late"
        );
        if took > limit {
            not_judged(&format!("{what}: {took:?} of {limit:?}, {late:?} late"));
        }
    }

    /// Whether this machine was later than `margin` for once, so that `what` cannot be judged; then
    /// it says so.
    pub(crate) fn excuses(&self, what: &str, margin: Duration) -> bool {
        let late = self.most();
        if late > margin {
            not_judged(&format!("{what}: {late:?} late, where {margin:?} matter"));
        }
        late > margin
    }
}

impl Drop for Lateness {
    fn drop(&mut self) {
        self.seen.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

// === impl Seen ===

impl Seen {
    fn tick(&self) {
        while !self.over.load(Ordering::Relaxed) {
            let begun = Instant::now();
            thread::sleep(TICK);
            let late = begun.elapsed().saturating_sub(TICK + USUAL).as_micros();
            let late = u64::try_from(late).unwrap_or(u64::MAX);
            self.most.fetch_max(late, Ordering::Relaxed);
            self.total.fetch_add(late, Ordering::Relaxed);
        }
    }
}

/// Nothing where the system does not say.
fn stalled() -> Duration {
    let text = fs::read_to_string(PRESSURE).unwrap_or_default();
    let total = text.lines().find(|line| line.starts_with("some "));
    let total = total.and_then(|line| line.rsplit_once("total="));
    Duration::from_micros(total.and_then(|(_, it)| it.parse().ok()).unwrap_or(0))
}

/// Writes past the capture of test output, which hides what a passing test prints.
pub(crate) fn not_judged(what: &str) {
    let _unseen = writeln!(io::stderr(), "not judged: {what}");
}
