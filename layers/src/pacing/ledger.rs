//! Rates: the interval, kept by governor, and quotas over longer times.

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    num::NonZeroUsize,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use governor::{
    RateLimiter,
    middleware::NoOpMiddleware,
    state::{InMemoryState, NotKeyed},
};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::clock::{ClockInstant, TokioClock};
use crate::error::BoxError;

/// Counts dispatches against the limits of an account.
///
/// A gate has at most one claim under way at a time, and calls [`left`](Self::left) or
/// [`undo`](Self::undo) for a granted one before it claims again. It calls all methods under its own
/// lock, so none of them may block; what takes time goes into the future of a claim, which is polled
/// without the lock.
pub trait Ledger: fmt::Debug + Send + Sync {
    /// Takes a slot for a request that is about to leave, if only `fraction` of the limit may be
    /// used. A granted slot counts from then on.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future before it is ready takes no slot.
    fn claim(&self, fraction: Fraction) -> ClaimFuture;

    /// The request of the latest granted claim leaves now.
    fn left(&self);

    /// The request of the latest granted claim does not leave: its slot is free again.
    fn undo(&self);

    /// The request that left at `dispatched` never reached the upstream, so the upstream has not
    /// counted it. A quota that only the upstream counts takes it back. A quota that also limits the
    /// rate keeps it, and so does a quota whose period has changed since.
    fn unsent(&self, dispatched: Instant) {
        let _ignored = dispatched;
    }

    /// The earliest instant for a dispatch that has `ahead` others before it, if only `fraction` of
    /// the limit may be used; `None` is at once. An estimate: [`claim`](Self::claim) decides.
    fn next_slot(&self, ahead: usize, fraction: Fraction) -> Option<Instant>;

    /// The gate's state that has to outlive the process has changed. A ledger that stores nothing
    /// ignores it.
    fn remember(&self, state: SavedState) {
        let _ignored = state;
    }
}

/// The decision of a [`Ledger`] about a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The request may leave.
    Granted,
    /// No slot is free before then.
    Wait(Instant),
}

/// The future of a claim: usually ready at once, sometimes a wait for a disk or another machine.
///
/// # Errors
///
/// The ledger cannot count, so the request must not leave.
#[must_use = "futures do nothing unless polled"]
pub struct ClaimFuture(ClaimState);

enum ClaimState {
    Ready(Option<Result<Claim, BoxError>>),
    Wait(Pin<Box<dyn Future<Output = Result<Claim, BoxError>> + Send>>),
}

/// What a gate has to know again after a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SavedState {
    /// When the latest request left.
    pub last_left: Option<Instant>,
    /// Until when the upstream has closed the gate.
    pub closed_until: Option<Instant>,
    /// Until when the quota is exhausted, as the upstream says.
    pub exhausted_until: Option<Instant>,
    /// Until when ledgers are asked for a fraction of their limits.
    pub shrunk_until: Option<Instant>,
    /// Until when gaps are longer.
    pub ramping_until: Option<Instant>,
    /// Until when fewer requests may be in flight.
    pub halved_until: Option<Instant>,
}

/// How much of a limit may be used: all of it, or less for a while after refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fraction {
    tenths: usize,
}

/// At most a number of dispatches in *any* window of some length.
///
/// Exact: it stores the instant of each dispatch for as long as it counts. governor's own quota
/// would admit nearly twice the limit in some windows, or half of it at a steady rate.
#[derive(Debug)]
pub struct Window {
    requests: NonZeroUsize,
    per: Duration,
    log: Mutex<VecDeque<Instant>>,
}

/// At most one dispatch in each interval, as a second safeguard: the gap that the gate draws is
/// never shorter.
#[derive(Debug)]
pub(super) struct Interval(
    Option<RateLimiter<NotKeyed, InMemoryState, TokioClock, NoOpMiddleware<ClockInstant>>>,
);

// === impl ClaimFuture ===

impl ClaimFuture {
    /// A future that is ready with `decision`.
    pub fn ready(decision: Result<Claim, BoxError>) -> Self {
        Self(ClaimState::Ready(Some(decision)))
    }

    /// A future that waits for `decision`.
    pub fn wait(decision: impl Future<Output = Result<Claim, BoxError>> + Send + 'static) -> Self {
        Self(ClaimState::Wait(Box::pin(decision)))
    }

    /// Takes the decision if it is there already; afterwards the future must not be polled.
    pub(super) fn take_ready(&mut self) -> Option<Result<Claim, BoxError>> {
        match &mut self.0 {
            ClaimState::Ready(decision) => decision.take(),
            ClaimState::Wait(_) => None,
        }
    }
}

impl Future for ClaimFuture {
    type Output = Result<Claim, BoxError>;

    /// # Panics
    ///
    /// If polled again after it was ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            #[expect(clippy::expect_used, reason = "the contract of Future")]
            ClaimState::Ready(decision) => {
                Poll::Ready(decision.take().expect("polled after ready"))
            }
            ClaimState::Wait(decision) => decision.as_mut().poll(cx),
        }
    }
}

impl fmt::Debug for ClaimFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClaimFuture")
    }
}

// === impl Fraction ===

impl Fraction {
    /// The whole limit.
    pub const WHOLE: Self = Self { tenths: 10 };

    /// 70 % of the limit, after two consecutive refusals.
    pub const SHRUNK: Self = Self { tenths: 7 };

    /// This fraction of `limit`, rounded down, and at least one.
    pub fn of(self, limit: NonZeroUsize) -> usize {
        (limit.get().saturating_mul(self.tenths) / 10).max(1)
    }
}

// === impl Window ===

impl Window {
    /// At most `requests` in any `per`.
    pub fn new(requests: NonZeroUsize, per: Duration) -> Self {
        Self {
            requests,
            per,
            log: Mutex::default(),
        }
    }

    fn log(&self) -> MutexGuard<'_, VecDeque<Instant>> {
        let mut log = self.log.lock();
        let now = Instant::now();
        while log
            .front()
            .is_some_and(|dispatched| *dispatched + self.per <= now)
        {
            log.pop_front();
        }
        log
    }
}

impl Ledger for Window {
    fn next_slot(&self, ahead: usize, fraction: Fraction) -> Option<Instant> {
        let limit = fraction.of(self.requests);
        let log = self.log();
        // A request may leave once the dispatch `limit` places before it is older than the window.
        // If that one still waits itself, each `limit` requests ahead add one whole window.
        let (rounds, ahead) = (ahead / limit, ahead % limit);
        let first = (log.len() + ahead)
            .checked_sub(limit)
            .map(|earlier| log[earlier] + self.per);
        if rounds == 0 {
            return first;
        }
        let rounds = u32::try_from(rounds).unwrap_or(u32::MAX);
        Some(first.unwrap_or_else(Instant::now) + self.per.saturating_mul(rounds))
    }

    fn claim(&self, fraction: Fraction) -> ClaimFuture {
        let decision = match self.next_slot(0, fraction) {
            Some(slot) => Claim::Wait(slot),
            None => {
                self.log().push_back(Instant::now());
                Claim::Granted
            }
        };
        ClaimFuture::ready(Ok(decision))
    }

    fn left(&self) {
        // The request is counted from its departure, which a wait may separate from the claim.
        if let Some(latest) = self.log().back_mut() {
            *latest = Instant::now();
        }
    }

    fn undo(&self) {
        self.log().pop_back();
    }
}

// === impl Interval ===

impl Interval {
    /// One cell every `least`; zero is no limit.
    pub(super) fn new(least: Duration) -> Self {
        Self(
            governor::Quota::with_period(least)
                .map(|quota| RateLimiter::direct_with_clock(quota, TokioClock)),
        )
    }

    /// Takes a cell, or returns when there will be one.
    pub(super) fn take(&self) -> Result<(), Instant> {
        let Some(limiter) = &self.0 else {
            return Ok(());
        };
        limiter
            .check()
            .map_err(|not_until| not_until.earliest_possible().0)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_cell_comes_back_after_the_interval_and_not_before() {
        let interval = Interval::new(Duration::from_millis(10));
        let start = Instant::now();
        assert_eq!(interval.take(), Ok(()));
        assert_eq!(interval.take(), Err(start + Duration::from_millis(10)));
        advance(Duration::from_millis(9)).await;
        assert!(interval.take().is_err());
        advance(Duration::from_millis(1)).await;
        assert_eq!(interval.take(), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn zero_is_no_limit() {
        let interval = Interval::new(Duration::ZERO);
        assert!((0..100).all(|_| interval.take().is_ok()));
    }

    fn window(requests: usize) -> Window {
        Window::new(
            NonZeroUsize::new(requests).unwrap(),
            Duration::from_secs(60),
        )
    }

    fn dispatch(window: &Window) {
        let decision = window.claim(Fraction::WHOLE).take_ready().unwrap();
        assert_eq!(decision.unwrap(), Claim::Granted);
        window.left();
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_that_is_undone_takes_no_slot() {
        let window = window(1);
        assert!(window.claim(Fraction::WHOLE).take_ready().is_some());
        window.undo();
        dispatch(&window);
        let full = window.claim(Fraction::WHOLE).take_ready().unwrap();
        let end = Instant::now() + Duration::from_secs(60);
        assert_eq!(full.unwrap(), Claim::Wait(end));
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_has_a_slot_when_the_oldest_dispatch_has_left_it() {
        let window = window(2);
        let start = Instant::now();
        dispatch(&window);
        advance(Duration::from_secs(10)).await;
        assert_eq!(window.next_slot(0, Fraction::WHOLE), None);
        assert_eq!(
            window.next_slot(1, Fraction::WHOLE),
            Some(start + Duration::from_secs(60)),
            "with one ahead it is full"
        );
        dispatch(&window);
        assert_eq!(
            window.next_slot(0, Fraction::WHOLE),
            Some(start + Duration::from_secs(60))
        );
        assert_eq!(
            window.next_slot(1, Fraction::WHOLE),
            Some(start + Duration::from_secs(70))
        );
        advance(Duration::from_secs(50)).await;
        assert_eq!(window.next_slot(0, Fraction::WHOLE), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_estimate_covers_future_dispatches() {
        let window = window(2);
        let start = Instant::now();
        dispatch(&window);
        dispatch(&window);
        let minutes = |ahead| {
            let at = window.next_slot(ahead, Fraction::WHOLE).unwrap();
            (at - start).as_secs() / 60
        };
        assert_eq!([0, 1, 2, 3, 4, 5].map(minutes), [1, 1, 2, 2, 3, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fraction_reduces_the_limit_but_leaves_one() {
        assert_eq!(Fraction::SHRUNK.of(NonZeroUsize::new(58).unwrap()), 40);
        assert_eq!(Fraction::SHRUNK.of(NonZeroUsize::MIN), 1);
        let window = window(10);
        for _ in 0..7 {
            dispatch(&window);
        }
        assert_eq!(window.next_slot(0, Fraction::WHOLE), None);
        assert!(window.next_slot(0, Fraction::SHRUNK).is_some());
    }
}
