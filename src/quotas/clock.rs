//! Two clocks that never go back: monotonic time, continued across restarts, and wall-clock time.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

use super::snapshot::Times;
use crate::wall_clock::WallClock;

/// Milliseconds: of monotonic time since an arbitrary start, or of wall-clock time since 1970.
pub(super) type Millis = i64;

/// Reads both clocks.
pub(super) struct Clock {
    wall: WallClock,
    /// The monotonic time at which this process started.
    begun: (Millis, Instant),
    /// The result of the last [`Clock::now`].
    times: Times,
}

/// One moment on both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) instant: Instant,
    /// Monotonic time, rounded down.
    pub(super) monotonic_ms: Millis,
    /// Monotonic time, rounded up: a dispatch saved with it never counts as older than it is.
    pub(super) monotonic_ms_ceil: Millis,
    /// The latest time that the wall clock has ever shown.
    pub(super) latest_wall_ms: Millis,
    /// The time that the wall clock shows.
    pub(super) wall_ms: Millis,
}

/// A wall clock that is behind by less was adjusted, not set back.
const CLOCK_ADJUSTMENT: Millis = 60_000;

/// The latest time accepted: about the year 9000, which the calendar can still express.
pub(super) const MAX_MILLIS: Millis = 221_876_000_000_000;

// === impl Clock ===

impl Clock {
    /// Continues from the `previous` process's times; without them, starts at the wall-clock time.
    pub(super) fn new(wall: WallClock, previous: Option<Times>) -> Self {
        let shown = millis(wall());
        let times = match previous {
            None => Times {
                latest: shown,
                monotonic_ms: shown,
            },
            Some(Times {
                latest,
                monotonic_ms,
            }) => Times {
                latest: latest.max(shown),
                // One millisecond less, because both times were rounded down.
                monotonic_ms: monotonic_ms + (shown - latest - 1).max(0),
            },
        };
        Self {
            wall,
            begun: (times.monotonic_ms, Instant::now()),
            times,
        }
    }

    pub(super) fn now(&mut self) -> Now {
        let instant = Instant::now();
        let wall = millis((self.wall)());
        let elapsed = instant.duration_since(self.begun.1);
        self.times = Times {
            latest: self.times.latest.max(wall),
            monotonic_ms: self.begun.0 + whole_millis(elapsed),
        };
        Now {
            instant,
            monotonic_ms: self.times.monotonic_ms,
            monotonic_ms_ceil: self.at(instant),
            latest_wall_ms: self.times.latest,
            wall_ms: wall,
        }
    }

    /// The monotonic time at `instant`, rounded up.
    pub(super) fn at(&self, instant: Instant) -> Millis {
        self.begun.0 + millis_up(instant.duration_since(self.begun.1))
    }

    /// The times to save for the next process.
    pub(super) fn times(&self) -> Times {
        self.times
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock")
            .field("begun", &self.begun)
            .field("times", &self.times)
            .finish_non_exhaustive()
    }
}

// === impl Now ===

impl Now {
    /// How far the wall clock is behind the latest time it has shown, if it was set back.
    pub(super) fn behind(&self) -> Option<Duration> {
        let behind = self.latest_wall_ms - self.wall_ms;
        (behind > CLOCK_ADJUSTMENT).then(|| duration(behind))
    }

    /// The wall-clock time after `wait`.
    pub(super) fn wall_after(&self, wait: Duration) -> SystemTime {
        UNIX_EPOCH + duration(self.wall_ms) + wait
    }
}

/// Converts milliseconds to a duration; a negative value becomes zero.
pub(super) fn duration(millis: Millis) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// Converts a duration to milliseconds, rounded up.
pub(super) fn millis_up(duration: Duration) -> Millis {
    whole_millis(duration.saturating_add(Duration::from_nanos(999_999)))
}

fn millis(time: SystemTime) -> Millis {
    whole_millis(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn whole_millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).map_or(MAX_MILLIS, |millis| millis.min(MAX_MILLIS))
}
