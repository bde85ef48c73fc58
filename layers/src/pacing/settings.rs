//! The settings of a gate.

use std::{num::NonZeroUsize, ops::RangeInclusive, time::Duration};

use super::queue::Order;

/// How requests are spaced out; see the [module documentation](super) for the guarantees.
///
/// By default only the queue is limited: 128 waiters, four minutes. Quotas are passed to the
/// [`Gate`](super::Gate) separately.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pacing {
    pub(super) min_interval: Duration,
    pub(super) jitter: RangeInclusive<Duration>,
    pub(super) idle_jitter: bool,
    pub(super) concurrency: Option<NonZeroUsize>,
    pub(super) max_queue: usize,
    pub(super) max_wait: Duration,
    pub(super) order: Order,
    pub(super) busy: Option<Busy>,
    pub(super) prepare_within: Duration,
}

/// A shorter jitter for busy times: when requests are few, a long gap hardly matters; when they are
/// many, it would leave half of a quota unused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Busy {
    /// From this many dispatches …
    pub from: NonZeroUsize,
    /// … within this time on, the one being made included, …
    pub within: Duration,
    /// … the jitter is drawn from here. Ends not before it starts.
    pub jitter: RangeInclusive<Duration>,
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

/// OpenCode gives up on a silent proxy after 300 s; a minute is left for the response itself.
const MAX_WAIT: Duration = Duration::from_secs(240);

/// Long enough for a slow handshake, short enough that a connection does not idle for long.
const PREPARE_WITHIN: Duration = Duration::from_secs(5);

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
            order: Order::default(),
            busy: None,
            prepare_within: PREPARE_WITHIN,
        }
    }

    /// The minimum time between two dispatches, jitter not included.
    #[must_use]
    pub fn min_interval(mut self, least: Duration) -> Self {
        self.min_interval = least;
        self
    }

    /// Added to each gap, drawn at random for each from `range`, both ends included.
    ///
    /// # Errors
    ///
    /// [`ReversedJitter`] if the range ends before it starts.
    pub fn jitter(mut self, range: RangeInclusive<Duration>) -> Result<Self, ReversedJitter> {
        self.jitter = forwards(range)?;
        Ok(self)
    }

    /// Draws the jitter from another range while many requests leave.
    ///
    /// # Errors
    ///
    /// [`ReversedJitter`] if that range ends before it starts.
    pub fn busy(mut self, busy: Busy) -> Result<Self, ReversedJitter> {
        let jitter = forwards(busy.jitter)?;
        self.busy = Some(Busy { jitter, ..busy });
        Ok(self)
    }

    /// The order in which requests leave.
    #[must_use]
    pub fn order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// Makes a request wait for its jitter even if the queue is empty. Off by default: such a
    /// request leaves at once.
    #[must_use]
    pub fn idle_jitter(mut self, on: bool) -> Self {
        self.idle_jitter = on;
        self
    }

    /// The maximum number of requests in flight, each until its response body has ended. `None` is
    /// no limit.
    #[must_use]
    pub fn concurrency(mut self, most: Option<NonZeroUsize>) -> Self {
        self.concurrency = most;
        self
    }

    /// The maximum number of waiting requests; one more is refused.
    #[must_use]
    pub fn max_queue(mut self, most: usize) -> Self {
        self.max_queue = most;
        self
    }

    /// The longest estimated wait; a request that would wait longer is refused.
    #[must_use]
    pub fn max_wait(mut self, longest: Duration) -> Self {
        self.max_wait = longest;
        self
    }

    /// How long before its estimated turn a request begins to prepare; five seconds by default.
    #[must_use]
    pub fn prepare_within(mut self, ahead: Duration) -> Self {
        self.prepare_within = ahead;
        self
    }

    /// The mean gap with `ahead` requests before it while only the interval blocks it.
    pub(super) fn mean_gap(&self, ahead: usize) -> Duration {
        let jitter = match &self.busy {
            Some(busy) if ahead >= busy.from.get() => &busy.jitter,
            _ => &self.jitter,
        };
        self.min_interval + (*jitter.start() + *jitter.end()) / 2
    }
}

fn forwards(range: RangeInclusive<Duration>) -> Result<RangeInclusive<Duration>, ReversedJitter> {
    let (start, end) = range.into_inner();
    if end < start {
        return Err(ReversedJitter { start, end });
    }
    Ok(start..=end)
}

impl Default for Pacing {
    fn default() -> Self {
        Self::new()
    }
}
