//! Two times that never go back: one that flows evenly, and one that follows the calendar.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

use super::record::Times;

/// The wall clock.
pub type WallClock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Milliseconds since some beginning: the even time's own, or 1970.
pub(super) type Millis = i64;

/// Reads both times.
pub(super) struct Clock {
    wall: WallClock,
    /// The even time at which this process began to count.
    begun: (Millis, Instant),
    /// As [`Clock::now`] has seen them last.
    times: Times,
}

/// One moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) instant: Instant,
    /// Even time, rounded down.
    pub(super) even: Millis,
    /// Even time, rounded up: what is written down at this moment is not taken for older than it is.
    pub(super) even_up: Millis,
    /// The latest that the wall clock has ever shown.
    pub(super) civil: Millis,
    /// What it shows.
    pub(super) wall: Millis,
}

/// A clock that is behind by less has been adjusted, not set.
const ADJUSTED: Millis = 60_000;

/// About the year 9000, far from the end of what the calendar can express.
pub(super) const LAST: Millis = 221_876_000_000_000;

// === impl Clock ===

impl Clock {
    /// Goes on from where a process left off, or begins.
    pub(super) fn new(wall: WallClock, left_off: Option<Times>) -> Self {
        let shown = millis(wall());
        let times = match left_off {
            None => Times {
                latest: shown,
                even: shown,
            },
            Some(Times { latest, even }) => Times {
                latest: latest.max(shown),
                // One less, because both were rounded down.
                even: even + (shown - latest - 1).max(0),
            },
        };
        Self {
            wall,
            begun: (times.even, Instant::now()),
            times,
        }
    }

    pub(super) fn now(&mut self) -> Now {
        let instant = Instant::now();
        let wall = millis((self.wall)());
        let elapsed = instant.duration_since(self.begun.1);
        self.times = Times {
            latest: self.times.latest.max(wall),
            even: self.begun.0 + whole_millis(elapsed),
        };
        Now {
            instant,
            even: self.times.even,
            even_up: self.at(instant),
            civil: self.times.latest,
            wall,
        }
    }

    /// The even time at `instant`, rounded up.
    pub(super) fn at(&self, instant: Instant) -> Millis {
        self.begun.0 + millis_up(instant.duration_since(self.begun.1))
    }

    /// What the next process has to know.
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
        let behind = self.civil - self.wall;
        (behind > ADJUSTED).then(|| duration(behind))
    }

    /// The wall clock's time after `wait`.
    pub(super) fn wall_after(&self, wait: Duration) -> SystemTime {
        UNIX_EPOCH + duration(self.wall) + wait
    }
}

/// Zero if negative.
pub(super) fn duration(millis: Millis) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// Rounded up.
pub(super) fn millis_up(duration: Duration) -> Millis {
    whole_millis(duration.saturating_add(Duration::from_nanos(999_999)))
}

fn millis(time: SystemTime) -> Millis {
    whole_millis(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn whole_millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).map_or(LAST, |millis| millis.min(LAST))
}
