//! Which time it is, and which time a process can know that it is.

use std::time::Duration;

use crate::play::Entry;

/// All in microseconds, and exact.
///
/// There are three ways to measure the time between two dispatches. While a process lives they are
/// one. Of the time between two processes only the wall clock tells.
pub(super) struct Clock {
    now: i64,
    /// What the wall clock showed at the beginning, and by how much it was set since.
    began: i64,
    set_by: i64,
    /// Earlier settings, each with when it ended.
    settings: Vec<(Duration, i64)>,
    /// The latest that was read from the wall clock, and what is known of it after a restart.
    seen: i64,
    kept: Kept,
    /// How much later than the true time it is by all that can be known: more time has passed than
    /// truly has if the wall clock was put forward while nothing ran, …
    known_for_less: i64,
    /// … and by what a process takes it for: less has passed if the clock was put back.
    taken_for: i64,
    restarts: u32,
}

#[derive(Clone, Copy)]
struct Kept {
    seen: i64,
    now: i64,
}

// === impl Clock ===

impl Clock {
    pub(super) fn new(began: i64) -> Self {
        Self {
            now: 0,
            began,
            set_by: 0,
            settings: Vec::new(),
            seen: began,
            kept: Kept {
                seen: began,
                now: 0,
            },
            known_for_less: 0,
            taken_for: 0,
            restarts: 0,
        }
    }

    pub(super) fn look(&mut self, entry: &Entry) {
        self.now = micros(entry.at);
        self.seen = entry.seen;
    }

    /// The wall clock is set by so many milliseconds.
    pub(super) fn set(&mut self, by: i64) {
        let ends = from_micros(self.now);
        self.settings.push((ends, self.set_by));
        self.set_by += by * 1000;
    }

    /// What is known now is known after a restart.
    pub(super) fn keep(&mut self) {
        self.kept = Kept {
            seen: self.seen,
            now: self.now,
        };
    }

    pub(super) fn restarted(&mut self) {
        self.restarts += 1;
        let shown = self.began + self.now + self.set_by - self.kept.seen;
        let passed = self.now - self.kept.now;
        self.known_for_less += (shown - passed).max(0);
        self.taken_for += shown.max(0) - passed;
    }

    pub(super) fn restarts(&self) -> u32 {
        self.restarts
    }

    /// The latest that was read from the wall clock.
    pub(super) fn civil(&self) -> i64 {
        self.seen
    }

    /// The longest that may have passed since another such time.
    pub(super) fn longest(&self) -> i64 {
        self.now + self.known_for_less
    }

    /// What a process goes by.
    pub(super) fn taken(&self) -> i64 {
        self.now + self.taken_for
    }

    /// When a process will take it to be `taken`.
    pub(super) fn when_taken(&self, taken: i64) -> Duration {
        from_micros(taken - self.taken_for)
    }

    /// When the wall clock shows `wall`, if nobody sets it.
    pub(super) fn when_shown(&self, wall: i64) -> Duration {
        from_micros(wall - self.began - self.set_by)
    }

    /// When somebody who has looked since `since` might think that it shows `wall`.
    pub(super) fn when_expected(&self, wall: i64, since: Duration) -> Duration {
        let settings = self.settings.iter().filter(|(ends, _)| *ends >= since);
        let settings = settings.map(|(_, set_by)| *set_by);
        settings
            .chain([self.set_by])
            .map(|set_by| from_micros(wall - self.began - set_by))
            .max()
            .unwrap_or_default()
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap()
}

/// Zero if negative.
fn from_micros(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}
