//! How long ago a connection was used, with the time that the machine slept.

use std::time::Duration;

use tokio::time::Instant;

/// Longer than the idle time-outs of most NATs and load balancers. An older connection may have been
/// forgotten without a word, and a request on it would be lost.
pub(super) const MAX_IDLE: Duration = Duration::from_secs(60);

/// The moment of a connection's last use.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastUse {
    at: Instant,
    /// The total time that the machine had slept by then.
    slept: Duration,
}

/// Two clocks cannot be read in the same moment, so a shorter sleep is not told apart.
const SHORTEST_SLEEP: Duration = Duration::from_secs(1);

// === impl LastUse ===

impl LastUse {
    pub(super) fn now() -> Self {
        Self {
            at: Instant::now(),
            slept: slept(),
        }
    }

    /// Whether a connection last used then may be used `now`: at most `limit` later, and the machine
    /// has not slept in between. While it slept, the clock of [`Instant`] stood still, the upstream's
    /// did not, and the network may be another one.
    pub(super) fn allows(&self, limit: Duration, now: &Self) -> bool {
        now.at.saturating_duration_since(self.at) <= limit
            && now.slept.saturating_sub(self.slept) < SHORTEST_SLEEP
    }

    /// When [`MAX_IDLE`] ends.
    pub(super) fn expires(&self) -> Instant {
        self.at + MAX_IDLE
    }
}

impl PartialEq for LastUse {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl PartialOrd for LastUse {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        self.at.partial_cmp(&other.at)
    }
}

/// The time that the machine has slept since it was started. Zero where no clock tells.
fn slept() -> Duration {
    #[cfg(any(target_os = "android", target_os = "linux"))]
    {
        use rustix::time::{ClockId, clock_gettime};

        let read = |clock| Duration::try_from(clock_gettime(clock)).unwrap_or_default();
        read(ClockId::Boottime).saturating_sub(read(ClockId::Monotonic))
    }
    #[cfg(not(any(target_os = "android", target_os = "linux")))]
    Duration::ZERO
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_asleep_ends_a_connection_like_time_awake() {
        let before = LastUse::now();
        let after = |awake, asleep| LastUse {
            at: before.at + awake,
            slept: before.slept + asleep,
        };
        let (short, long) = (
            Duration::from_millis(10),
            MAX_IDLE + Duration::from_millis(1),
        );
        for (now, allowed) in [
            (before, true),
            (after(MAX_IDLE, short), true),
            (after(long, Duration::ZERO), false),
            (after(short, SHORTEST_SLEEP), false),
        ] {
            assert_eq!(before.allows(MAX_IDLE, &now), allowed, "{now:?}");
        }
    }

    #[test]
    fn a_machine_that_is_awake_is_not_taken_for_one_that_slept() {
        let before = LastUse::now();
        assert!((0..1000).all(|_| before.allows(MAX_IDLE, &LastUse::now())));
    }
}
