//! The gate: order, jitter, cancellation and accounting around governor's arithmetic.

use std::{
    sync::{Arc, Weak},
    task::Waker,
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use rand::rngs::StdRng;
use tokio::time::Instant;

use super::{
    acquire::Acquire,
    backpressure::Backpressure,
    feedback::{Feedback, Recovery},
    gap::Gap,
    ledger::{Fraction, Ledger},
    queue::{Position, Queue, Waiter},
    refused::Refused,
    settings::Pacing,
};
use crate::context::{RequestContext, Session};

/// Lets requests through one by one; clones share one gate.
///
/// One gate belongs to one account at one upstream, never to anything a client can choose.
#[derive(Clone, Debug)]
pub struct Gate(Arc<GateInner>);

/// A weak reference to a [`Gate`].
#[derive(Clone, Debug)]
pub struct WeakGate(Weak<GateInner>);

/// A slot in flight, freed when dropped.
#[derive(Debug)]
pub struct Permit {
    gate: Gate,
    dispatch_id: u64,
    dispatched: Instant,
}

/// The position of a waiting request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueuePosition {
    /// The position in the queue, the first being 1.
    pub place: usize,
    /// About how long the request will still wait.
    pub eta: Duration,
}

/// Why a request cannot be dispatched now.
pub(super) enum Blocked {
    /// Another request will wake it.
    ByOthers,
    /// The request has to wait until then.
    Until(Instant),
    /// The request must not wait any longer.
    Refused(Refused),
}

/// The outcome of entering the gate.
pub(super) enum Admission {
    /// The request need not wait: the queue is empty and nothing blocks it.
    Dispatched(Permit),
    /// The request waits from then on.
    Waiting(Waiter, Instant),
}

#[derive(Debug)]
struct GateInner {
    pacing: Pacing,
    ledgers: Vec<Arc<dyn Ledger>>,
    state: Mutex<GateState>,
}

#[derive(Debug)]
struct GateState {
    queue: Queue,
    last_sequence: u64,
    last_dispatch_id: u64,
    in_flight: usize,
    dispatched: u64,
    gap: Gap,
    backpressure: Backpressure,
    draining: bool,
}

// === impl Gate ===

impl Gate {
    /// A gate with `pacing` that draws jitter from `rng`.
    pub fn new(pacing: Pacing, rng: StdRng) -> Self {
        Self::with_ledgers(pacing, Vec::new(), rng)
    }

    /// A gate with `pacing` that also asks every one of `ledgers`.
    pub fn with_ledgers(pacing: Pacing, ledgers: Vec<Arc<dyn Ledger>>, rng: StdRng) -> Self {
        let state = GateState {
            queue: Queue::new(pacing.order),
            last_sequence: 0,
            last_dispatch_id: 0,
            in_flight: 0,
            dispatched: 0,
            gap: Gap::new(&pacing, rng),
            backpressure: Backpressure::default(),
            draining: false,
        };
        Self(Arc::new(GateInner {
            pacing,
            ledgers,
            state: Mutex::new(state),
        }))
    }

    /// A turn for a request with `context`. If the context has been through this gate before, the
    /// request is a retry: it goes first and is not refused for the length of the queue.
    pub fn acquire(&self, context: Option<RequestContext>) -> Acquire {
        Acquire::new(self.clone(), context)
    }

    /// The position of the request with `context`, if it is waiting here.
    pub fn queue_position(&self, context: &RequestContext) -> Option<QueuePosition> {
        let state = self.lock();
        let ahead = state.queue.ahead_of(context.sequence()?)?;
        Some(QueuePosition {
            place: ahead + 1,
            eta: self.estimate_with(&state, ahead, Instant::now()),
        })
    }

    /// Refuses every request that waits, and from now on every request that would have to, with
    /// [`Refused::Draining`]. A request that need not wait still passes.
    pub fn drain(&self) {
        let mut state = self.lock();
        state.draining = true;
        // Each request that leaves wakes the next.
        state.queue.wake_first();
    }

    /// A weak reference to this gate.
    pub fn downgrade(&self) -> WeakGate {
        WeakGate(Arc::downgrade(&self.0))
    }

    /// How many requests wait.
    pub fn waiting(&self) -> usize {
        self.lock().queue.len()
    }

    /// How many requests are in flight: dispatched, and their permits not yet dropped.
    pub fn in_flight(&self) -> usize {
        self.lock().in_flight
    }

    /// How many requests have been let through since the gate was made.
    pub fn dispatched(&self) -> u64 {
        self.lock().dispatched
    }

    /// Dispatches a request at once, or puts it into the queue.
    pub(super) fn enter(&self, context: Option<&RequestContext>) -> Result<Admission, Refused> {
        let mut state = self.lock();
        // Read once, under the lock: no other request can enter between this and the dispatch.
        let now = Instant::now();
        let session = context.and_then(RequestContext::session);
        let previous = context.and_then(RequestContext::sequence);
        let skips_queue = self.may_skip_queue(&state, now);
        if !skips_queue && previous.is_none() {
            self.admit(&state, session, now)?;
        }
        if state.queue.len() == 0 {
            state.gap.start_from_idle(&self.0.pacing, now);
        }
        let sequence = previous.unwrap_or_else(|| {
            state.last_sequence += 1;
            state.last_sequence
        });
        if let Some(context) = context {
            context.set_sequence(sequence);
        }
        state.last_dispatch_id += 1;
        let dispatch_id = state.last_dispatch_id;
        if skips_queue && state.gap.take_interval().is_ok() {
            return Ok(Admission::Dispatched(self.take_slot(
                &mut state,
                dispatch_id,
                now,
            )));
        }
        let position = Position {
            sequence,
            dispatch_id,
        };
        let waiter = state.queue.enter(position, session, previous.is_some());
        Ok(Admission::Waiting(waiter, now))
    }

    /// Dispatches `waiter` if it is its turn.
    pub(super) fn dispatch(&self, waiter: &Waiter, waker: &Waker) -> Result<Permit, Blocked> {
        let mut state = self.lock();
        let now = Instant::now();
        let blocked = self.blocked(&state, waiter, now);
        let blocked = blocked.or_else(|| state.gap.take_interval().err().map(Blocked::Until));
        if let Some(blocked) = blocked {
            if state.draining && !matches!(blocked, Blocked::Refused(_)) {
                return Err(Blocked::Refused(Refused::Draining));
            }
            state.queue.set_waker(waiter, waker);
            return Err(blocked);
        }
        let permit = self.take_slot(&mut state, waiter.position.dispatch_id, now);
        state.queue.serve(waiter);
        state.queue.wake_first();
        Ok(permit)
    }

    pub(super) fn leave(&self, waiter: &Waiter) {
        let mut state = self.lock();
        let was_first = state.queue.is_first(waiter.position);
        state.queue.leave(waiter);
        if was_first {
            state.queue.wake_first();
        }
    }

    /// Whether a new request need not wait. With `idle_jitter` every request waits.
    fn may_skip_queue(&self, state: &GateState, now: Instant) -> bool {
        let is_blocked = || self.blocked_by(state, now).is_some();
        state.queue.len() == 0 && !self.0.pacing.idle_jitter && !is_blocked()
    }

    /// Takes the slot of the dispatch `dispatch_id`. The instant that a ledger records is no
    /// earlier than `now`.
    fn take_slot(&self, state: &mut GateState, dispatch_id: u64, now: Instant) -> Permit {
        for ledger in &self.0.ledgers {
            ledger.record();
        }
        state.in_flight += 1;
        state.dispatched += 1;
        let is_ramping = state.backpressure.is_ramping(now);
        // A ledger may have written to disk meanwhile, and the gap begins when the request leaves.
        let departure = if self.0.ledgers.is_empty() {
            now
        } else {
            Instant::now()
        };
        state.gap.dispatched(&self.0.pacing, is_ramping, departure);
        state.backpressure.dispatched(dispatch_id);
        Permit {
            gate: self.clone(),
            dispatch_id,
            dispatched: now,
        }
    }

    /// Why `waiter` cannot be dispatched now, without taking anything.
    fn blocked(&self, state: &GateState, waiter: &Waiter, now: Instant) -> Option<Blocked> {
        if !state.queue.is_first(waiter.position) {
            return Some(Blocked::ByOthers);
        }
        self.blocked_by(state, now)
    }

    /// Why the first request cannot be dispatched now.
    fn blocked_by(&self, state: &GateState, now: Instant) -> Option<Blocked> {
        if self.is_full(state, now) {
            return Some(Blocked::ByOthers);
        }
        let too_late = now + self.0.pacing.max_wait;
        if let Some(slot) = self.next_slot(state, 0, now).filter(|slot| *slot > now) {
            return Some(if slot > too_late {
                let reset = slot - now;
                Blocked::Refused(Refused::QuotaExhausted { reset })
            } else {
                Blocked::Until(slot)
            });
        }
        if let Some(until) = state.backpressure.until().filter(|until| *until > too_late) {
            let estimate = until - now;
            return Some(Blocked::Refused(Refused::WouldWaitTooLong { estimate }));
        }
        let not_before = state.not_before();
        if not_before > now {
            return Some(Blocked::Until(not_before));
        }
        state.backpressure.is_probing().then_some(Blocked::ByOthers)
    }

    /// Whether one more request may wait. How long those in flight will take is unknown and counts
    /// as zero.
    fn admit(
        &self,
        state: &GateState,
        session: Option<&Session>,
        now: Instant,
    ) -> Result<(), Refused> {
        let pacing = &self.0.pacing;
        let waiting = state.queue.len();
        let ahead = state.queue.ahead_of_newcomer(session);
        let estimate = self.estimate_with(state, ahead, now);
        let slot = self.next_slot(state, 0, now);
        let reset = slot.map(|slot| slot.duration_since(now));
        if let Some(reset) = reset.filter(|reset| *reset > pacing.max_wait) {
            return Err(Refused::QuotaExhausted { reset });
        }
        let need_not_wait = waiting == 0 && estimate.is_zero() && !self.is_full(state, now);
        if waiting >= pacing.max_queue && !need_not_wait {
            return Err(Refused::QueueFull { waiting, estimate });
        }
        if estimate > pacing.max_wait {
            return Err(Refused::WouldWaitTooLong { estimate });
        }
        Ok(())
    }

    /// How long a request waits with `ahead` others before it.
    fn estimate_with(&self, state: &GateState, ahead: usize, now: Instant) -> Duration {
        let count = u32::try_from(ahead).unwrap_or(u32::MAX);
        let gaps = self.0.pacing.mean_gap(ahead).saturating_mul(count);
        let paced = state.not_before().max(now) + gaps;
        let slot = self.next_slot(state, ahead, now);
        let at = slot.map_or(paced, |slot| slot.max(paced));
        at.duration_since(now)
    }

    /// When all ledgers allow a dispatch with `ahead` others before it; `None` is at once.
    fn next_slot(&self, state: &GateState, ahead: usize, now: Instant) -> Option<Instant> {
        let ledgers = self.0.ledgers.iter();
        let slots = ledgers.filter_map(|ledger| match state.backpressure.shrunk_until(now) {
            None => ledger.next_slot(ahead, Fraction::WHOLE),
            // Quotas are reduced until `end`, and no longer.
            Some(end) => {
                let shrunk = ledger.next_slot(ahead, Fraction::SHRUNK)?;
                let whole = ledger.next_slot(ahead, Fraction::WHOLE);
                Some(shrunk.min(whole.map_or(end, |whole| whole.max(end))))
            }
        });
        slots.max().max(state.backpressure.exhausted_until(now))
    }

    fn is_full(&self, state: &GateState, now: Instant) -> bool {
        let most = self.0.pacing.concurrency;
        most.is_some_and(|most| state.in_flight >= state.backpressure.max_in_flight(most, now))
    }

    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.0.state.lock()
    }
}

impl Feedback for Gate {
    fn accepted(&self, request: &RequestContext) {
        let mut state = self.lock();
        if state.backpressure.accepted(request.dispatch_id()) {
            state.queue.wake_first();
        }
    }

    fn refused(&self, request: &RequestContext, until: Instant, recovery: Recovery) {
        let mut state = self.lock();
        state
            .backpressure
            .refused(request.dispatch_id(), until, recovery);
        // The first request may find that the wait is now too long.
        state.queue.wake_first();
    }

    fn exhausted(&self, until: Instant) {
        let mut state = self.lock();
        state.backpressure.exhausted(until);
        state.queue.wake_first();
    }

    fn estimate(&self) -> Duration {
        let state = self.lock();
        let ahead = state.queue.ahead_of_newcomer(None);
        self.estimate_with(&state, ahead, Instant::now())
    }
}

// === impl GateState ===

impl GateState {
    fn not_before(&self) -> Instant {
        let paced = self.gap.not_before();
        self.backpressure
            .until()
            .map_or(paced, |until| until.max(paced))
    }
}

// === impl WeakGate ===

impl PartialEq for WeakGate {
    /// Whether both are the same gate.
    fn eq(&self, other: &Self) -> bool {
        self.0.ptr_eq(&other.0)
    }
}

impl WeakGate {
    /// The gate, if it has not been dropped.
    pub fn upgrade(&self) -> Option<Gate> {
        self.0.upgrade().map(Gate)
    }
}

// === impl Permit ===

impl Permit {
    /// The number of the dispatch, for [`RequestContext`] to store.
    pub(super) fn dispatch_id(&self) -> u64 {
        self.dispatch_id
    }

    /// The upstream accepted the request.
    /// [`JitterThrottle`](crate::jitter_throttle::JitterThrottle) reports that for a response that
    /// is no error; `RetryOn429` classifies errors.
    pub fn accepted(&self) {
        let mut state = self.gate.lock();
        if state.backpressure.accepted(Some(self.dispatch_id)) {
            state.queue.wake_first();
        }
    }

    /// The request never reached the upstream, so the upstream has not counted it.
    pub(crate) fn not_sent(&self) {
        for ledger in &self.gate.0.ledgers {
            ledger.refund(self.dispatched);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        state.in_flight -= 1;
        state.backpressure.lost(self.dispatch_id);
        state.queue.wake_first();
    }
}
