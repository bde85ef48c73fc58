//! governor's clock over tokio's, so that pausing tokio's clock stops it too.

use std::{ops::Add, time::Duration};

use governor::{
    clock::{Clock, Reference},
    nanos::Nanos,
};
use tokio::time::Instant;

/// Reads tokio's clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct TokioClock;

/// An instant of tokio's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ClockInstant(pub(super) Instant);

impl Clock for TokioClock {
    type Instant = ClockInstant;

    fn now(&self) -> ClockInstant {
        ClockInstant(Instant::now())
    }
}

impl Add<Nanos> for ClockInstant {
    type Output = Self;

    fn add(self, later: Nanos) -> Self {
        Self(self.0 + Duration::from(later))
    }
}

impl Reference for ClockInstant {
    fn duration_since(&self, earlier: Self) -> Nanos {
        self.0.duration_since(earlier.0).into()
    }

    fn saturating_sub(&self, duration: Nanos) -> Self {
        Self(self.0.checked_sub(duration.into()).unwrap_or(self.0))
    }
}
