//! What an upstream admits, and the quota by which the gate stays below it.

use std::{collections::VecDeque, fmt, num::NonZeroUsize, sync::Arc, time::Duration};

use pacegate_layers::pacing::{Claim, ClaimFuture, Fraction, Ledger, Window};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    config::{self, Per, show_duration},
    simulator,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// At most so many requests in some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// How many.
    pub requests: NonZeroUsize,
    /// In how long.
    pub per: Duration,
    /// Which windows of that length.
    pub span: Span,
}

/// The windows of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// Consecutive windows. A run has no date: a day, a week and a month begin with it.
    Calendar,
    /// Every window.
    Rolling,
}

/// Counts the admitted requests of one limit.
#[derive(Debug)]
pub(super) struct LimitCounter {
    limit: Limit,
    admitted: VecDeque<Duration>,
}

/// A calendar limit as a quota of the gate.
#[derive(Debug)]
struct PeriodQuota {
    epoch: Instant,
    limit: Limit,
    /// The latest period with a request, and the number of requests in it.
    spent: Mutex<(u32, usize)>,
}

// === impl Limit ===

impl Limit {
    /// The quota by which a gate stays below the limit, in a run that begins at `epoch`.
    pub(super) fn quota(self, epoch: Instant) -> Arc<dyn Ledger> {
        match self.span {
            Span::Rolling => Arc::new(Window::new(self.requests, self.per)),
            Span::Calendar => Arc::new(PeriodQuota {
                epoch,
                limit: self,
                spent: Mutex::default(),
            }),
        }
    }

    /// The limit for the simulator, which has no calendar windows.
    pub(super) fn window(self) -> simulator::WindowLimit {
        simulator::WindowLimit {
            requests: self.requests.get(),
            per: self.per,
        }
    }
}

impl From<&config::Quota> for Limit {
    fn from(quota: &config::Quota) -> Self {
        let (per, span) = match quota.per {
            Per::Window(per) => (per, Span::Rolling),
            Per::Day { .. } => (DAY, Span::Calendar),
            Per::Week { .. } => (7 * DAY, Span::Calendar),
            Per::Month { .. } => (30 * DAY, Span::Calendar),
        };
        Self {
            requests: quota.requests,
            per,
            span,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.requests, show_duration(self.per))
    }
}

// === impl LimitCounter ===

impl LimitCounter {
    pub(super) fn new(limit: Limit) -> Self {
        Self {
            limit,
            admitted: VecDeque::new(),
        }
    }

    /// How long until another request is admitted; `None` if it is admitted now.
    pub(super) fn wait(&mut self, now: Duration) -> Option<Duration> {
        while self.admitted.front().is_some_and(|at| self.end(*at) <= now) {
            self.admitted.pop_front();
        }
        let full = self.admitted.len() >= self.limit.requests.get();
        let oldest = self.admitted.front().filter(|_| full)?;
        Some(self.end(*oldest) - now)
    }

    pub(super) fn admit(&mut self, now: Duration) {
        self.admitted.push_back(now);
    }

    /// When a request that was admitted at `at` leaves its window.
    fn end(&self, at: Duration) -> Duration {
        match self.limit.span {
            Span::Rolling => at + self.limit.per,
            Span::Calendar => self.limit.per * (period(at, self.limit.per) + 1),
        }
    }
}

fn period(at: Duration, per: Duration) -> u32 {
    u32::try_from(at.as_nanos() / per.as_nanos()).unwrap_or(u32::MAX - 1)
}

// === impl PeriodQuota ===

impl PeriodQuota {
    fn now(&self) -> u32 {
        period(self.epoch.elapsed(), self.limit.per)
    }
}

impl Ledger for PeriodQuota {
    fn next_slot(&self, ahead: usize, share: Fraction) -> Option<Instant> {
        let (latest, spent) = *self.spent.lock();
        let now = self.now();
        let spent = if latest == now { spent } else { 0 };
        let periods = (spent + ahead) / share.of(self.limit.requests);
        let later = u32::try_from(periods).ok().filter(|periods| *periods > 0)?;
        Some(self.epoch + self.limit.per * now.saturating_add(later))
    }

    fn claim(&self, share: Fraction) -> ClaimFuture {
        if let Some(slot) = self.next_slot(0, share) {
            return ClaimFuture::ready(Ok(Claim::Wait(slot)));
        }
        let now = self.now();
        let mut spent = self.spent.lock();
        *spent = match *spent {
            (latest, spent) if latest == now => (now, spent + 1),
            _ => (now, 1),
        };
        ClaimFuture::ready(Ok(Claim::Granted))
    }

    // A claim is decided at once, in the poll in which its request leaves.
    fn left(&self) {}

    fn undo(&self) {
        self.spent.lock().1 -= 1;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::time::advance;

    use super::*;

    fn two_a_minute(span: Span) -> Limit {
        Limit {
            requests: NonZeroUsize::new(2).unwrap(),
            per: Duration::from_secs(60),
            span,
        }
    }

    #[test]
    fn a_rolling_limit_frees_one_place_at_a_time_and_a_calendar_one_all_of_them() {
        for (span, third, fourth) in [(Span::Rolling, 60, 90), (Span::Calendar, 60, 60)] {
            let mut counter = LimitCounter::new(two_a_minute(span));
            let mut now = Duration::ZERO;
            let mut admitted = Vec::new();
            for wanted in [0, 30, 31, 31].map(Duration::from_secs) {
                now = now.max(wanted);
                now += counter.wait(now).unwrap_or_default();
                counter.admit(now);
                admitted.push(now.as_secs());
            }
            assert_eq!(admitted, [0, 30, third, fourth], "{span:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_day_that_is_used_up_has_room_again_at_its_end() {
        let epoch = Instant::now();
        let quota = two_a_minute(Span::Calendar).quota(epoch);
        advance(Duration::from_secs(10)).await;
        assert_eq!(quota.next_slot(1, Fraction::WHOLE), None);
        for _ in 0..2 {
            let claim = quota.claim(Fraction::WHOLE).now_or_never().unwrap();
            assert_eq!(claim.unwrap(), Claim::Granted);
        }
        let minute = |number: u64| Some(epoch + Duration::from_secs(60 * number));
        assert_eq!(quota.next_slot(0, Fraction::WHOLE), minute(1));
        assert_eq!(quota.next_slot(2, Fraction::WHOLE), minute(2));
        advance(Duration::from_secs(50)).await;
        assert_eq!(quota.next_slot(0, Fraction::WHOLE), None);
    }
}
