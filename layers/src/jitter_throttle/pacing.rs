//! What a gate is told.

use std::{num::NonZeroUsize, ops::RangeInclusive, time::Duration};

/// How requests are spaced out; see the [module documentation](super) for what is promised.
///
/// Starts without any limit but the bounds of the queue: 128 waiters, four minutes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pacing {
    pub(super) min_interval: Duration,
    pub(super) jitter: RangeInclusive<Duration>,
    pub(super) idle_jitter: bool,
    pub(super) concurrency: Option<NonZeroUsize>,
    pub(super) max_queue: usize,
    pub(super) max_wait: Duration,
}

/// A jitter range whose end lies before its start.
#[derive(Debug, thiserror::Error)]
#[error("jitter ends at {end:?}, before its start at {start:?}")]
pub struct ReversedJitter {
    start: Duration,
    end: Duration,
}

/// Waiters that fit into [`MAX_WAIT`] at a mean gap of two seconds, and a few more.
const MAX_QUEUE: usize = 128;

/// OpenCode gives up on a silent proxy after 300 s; a minute is left for the answer itself.
const MAX_WAIT: Duration = Duration::from_secs(240);

impl Pacing {
    /// No spacing, no limit on concurrency.
    pub fn new() -> Self {
        Self {
            min_interval: Duration::ZERO,
            jitter: Duration::ZERO..=Duration::ZERO,
            idle_jitter: false,
            concurrency: None,
            max_queue: MAX_QUEUE,
            max_wait: MAX_WAIT,
        }
    }

    /// The least time between two dispatches, jitter not included.
    #[must_use]
    pub fn min_interval(mut self, least: Duration) -> Self {
        self.min_interval = least;
        self
    }

    /// What is added to each gap, drawn anew for each from `range`, both ends included.
    ///
    /// # Errors
    ///
    /// [`ReversedJitter`] if the range ends before it starts.
    pub fn jitter(mut self, range: RangeInclusive<Duration>) -> Result<Self, ReversedJitter> {
        if range.end() < range.start() {
            let (start, end) = range.into_inner();
            return Err(ReversedJitter { start, end });
        }
        self.jitter = range;
        Ok(self)
    }

    /// Makes a lone request wait for its jitter too. Off by default: a request with nobody before
    /// it leaves at once.
    #[must_use]
    pub fn idle_jitter(mut self, on: bool) -> Self {
        self.idle_jitter = on;
        self
    }

    /// The most requests in flight, each until its response body has ended. `None` is no limit.
    #[must_use]
    pub fn concurrency(mut self, most: Option<NonZeroUsize>) -> Self {
        self.concurrency = most;
        self
    }

    /// The most requests waiting; one more is refused.
    #[must_use]
    pub fn max_queue(mut self, most: usize) -> Self {
        self.max_queue = most;
        self
    }

    /// The longest estimated wait that is begun; a request that would wait longer is refused.
    #[must_use]
    pub fn max_wait(mut self, longest: Duration) -> Self {
        self.max_wait = longest;
        self
    }

    /// The gap that a queue moves at when nothing but the interval holds it.
    pub(super) fn mean_gap(&self) -> Duration {
        self.min_interval + (*self.jitter.start() + *self.jitter.end()) / 2
    }
}

impl Default for Pacing {
    fn default() -> Self {
        Self::new()
    }
}
