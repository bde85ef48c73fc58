//! The gate: order, readiness, cancellation and accounting around governor's arithmetic.

use std::{
    fmt,
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
    claims::Claims,
    feedback::{Feedback, Recovery},
    gap::Gap,
    in_flight::InFlight,
    ledger::{Claim, Fraction, Ledger, SavedState},
    queue::{Position, Queue, Stage, Waiter},
    refused::Refused,
    settings::Pacing,
};
use crate::{
    context::{RequestContext, Session},
    error::BoxError,
};

/// Lets requests through one by one; clones share one gate.
///
/// One gate belongs to one account at one upstream, never to anything a client can choose.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Mutex<GateState>>);

/// A weak reference to a [`Gate`].
#[derive(Clone, Debug)]
pub struct WeakGate(Weak<Mutex<GateState>>);

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
    /// What the first request in the queue waits for.
    pub reason: WaitReason,
}

/// Why the first request in a queue does not leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitReason {
    /// The upstream has closed the gate.
    Closed,
    /// As many requests as may be are in flight.
    Concurrency,
    /// The time between two dispatches.
    Gap,
    /// Its slot is being counted.
    Ledger,
    /// It has no connection or no token yet.
    Preparing,
    /// The response to the first request after a refusal.
    Probe,
    /// A quota has no slot.
    Quota,
}

/// Why a request cannot be dispatched now.
pub(super) enum Blocked {
    /// Another request will wake it.
    ByOthers,
    /// The request has to wait until then.
    Until(Instant),
    /// Its claim at the ledgers takes time.
    Claiming(Claims),
    /// The request must not wait any longer.
    Failed(BoxError),
}

/// The outcome of entering the gate.
pub(super) enum Admission {
    /// The request need not wait: the queue is empty and nothing blocks it.
    Dispatched(Permit),
    /// The request waits from then on, perhaps with a claim that takes time.
    Waiting(Waiter, Instant, Option<Claims>),
}

/// What a waiting request does next.
pub(super) enum Next {
    /// Prepares, and looks again at an instant, if there is one.
    Prepare(Option<Instant>),
    /// Waits until it is woken, or until an instant.
    Wait(Instant),
}

#[derive(Debug)]
struct GateState {
    pacing: Pacing,
    ledgers: Arc<[Arc<dyn Ledger>]>,
    queue: Queue,
    last_sequence: u64,
    last_dispatch_id: u64,
    in_flight: InFlight,
    dispatched: u64,
    gap: Gap,
    backpressure: Backpressure,
    /// The dispatch that has a claim under way.
    claiming: Option<u64>,
    /// The mean time in flight when waits were last judged.
    judged_by: Duration,
    draining: bool,
}

/// The most requests that prepare at once.
const MAX_PREPARING: usize = 8;

/// Timers that end together fire in any order, and tokio's end up to a millisecond late.
const LAST_MOMENT: Duration = Duration::from_millis(5);

/// A request that prepares for longer lets another one prepare beside it.
const SLOW: Duration = Duration::from_secs(1);

// === impl Gate ===

impl Gate {
    /// A gate with `pacing` that draws jitter from `rng`.
    pub fn new(pacing: Pacing, rng: StdRng) -> Self {
        Self::with_ledgers(pacing, Vec::new(), rng)
    }

    /// A gate with `pacing` that also claims a slot at every one of `ledgers`.
    pub fn with_ledgers(pacing: Pacing, ledgers: Vec<Arc<dyn Ledger>>, rng: StdRng) -> Self {
        Self(Arc::new(Mutex::new(GateState {
            queue: Queue::new(pacing.order),
            last_sequence: 0,
            last_dispatch_id: 0,
            in_flight: InFlight::default(),
            dispatched: 0,
            gap: Gap::new(&pacing, rng),
            backpressure: Backpressure::default(),
            claiming: None,
            judged_by: Duration::ZERO,
            draining: false,
            pacing,
            ledgers: ledgers.into(),
        })))
    }

    /// Continues what an earlier process has saved.
    pub fn restore(&self, saved: &SavedState) {
        let mut state = self.lock();
        let state = &mut *state;
        state.backpressure.restore(saved);
        if let Some(last) = saved.last_left {
            let is_ramping = state.backpressure.is_ramping(Instant::now());
            state.gap.continue_from(&state.pacing, is_ramping, last);
        }
    }

    /// Replaces pacing and ledgers. Requests that wait keep their places; what is in flight, the gap
    /// since the latest dispatch and what the upstream has said stay. A claim under way ends at the
    /// ledgers where it was made.
    pub fn configure(&self, pacing: Pacing, ledgers: Vec<Arc<dyn Ledger>>) {
        let mut state = self.lock();
        let now = Instant::now();
        let is_ramping = state.backpressure.is_ramping(now);
        let old = std::mem::replace(&mut state.pacing, pacing.clone());
        state.gap.change(&old, &pacing, is_ramping);
        state.queue.set_order(pacing.order);
        state.ledgers = ledgers.into();
        state.queue.wake_all();
    }

    /// Another key is used from now on: forgets the refusals of the earlier one.
    pub fn forget_refusals(&self) {
        let mut state = self.lock();
        state.backpressure.forget_refusals();
        state.save();
        state.queue.wake_all();
    }

    /// Gives the state that has to outlive the process to the ledgers.
    pub fn save(&self) {
        self.lock().save();
    }

    /// A turn for a request with `context`. If the context has been through this gate before, the
    /// request is a retry: it goes first and is not refused for the length of the queue.
    pub fn acquire(&self, context: Option<RequestContext>) -> Acquire {
        Acquire::new(self.clone(), context)
    }

    /// The position of the request with `context`, if it is waiting here.
    pub fn queue_position(&self, context: &RequestContext) -> Option<QueuePosition> {
        let state = self.lock();
        let now = Instant::now();
        let ahead = state.queue.ahead_of(context.sequence()?)?;
        Some(QueuePosition {
            place: ahead + 1,
            eta: state.estimate_with(ahead, now),
            reason: state.wait_reason(now),
        })
    }

    /// Refuses every request that waits, and from now on every request that would have to, with
    /// [`Refused::Draining`]. A request that need not wait still passes.
    pub fn drain(&self) {
        let mut state = self.lock();
        state.draining = true;
        state.queue.wake_all();
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
        self.lock().in_flight.len()
    }

    /// How many requests have been let through since the gate was made.
    pub fn dispatched(&self) -> u64 {
        self.lock().dispatched
    }

    /// Whether a request that arrives now need not wait, so that it may prepare at once.
    pub(super) fn is_free(&self) -> bool {
        self.lock().is_free(Instant::now())
    }

    /// Gives a request its place among others, for when it comes again.
    pub(super) fn number(&self, context: &RequestContext) {
        let mut state = self.lock();
        state.last_sequence += 1;
        context.set_sequence(state.last_sequence);
    }

    /// Dispatches a request at once if it is ready, or puts it into the queue.
    pub(super) fn enter(
        &self,
        context: Option<&RequestContext>,
        stage: Stage,
    ) -> Result<Admission, BoxError> {
        let mut state = self.lock();
        // Read once, under the lock: no other request can enter between this and the dispatch.
        let now = Instant::now();
        let session = context.and_then(RequestContext::session);
        let previous = context.and_then(RequestContext::sequence);
        let is_free = state.is_free(now);
        if !is_free && previous.is_none() {
            state.admit(session, now)?;
        }
        if state.queue.len() == 0 {
            state.start_from_idle(now);
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
        let mut claims = None;
        if is_free && stage == Stage::Ready {
            match state.claim(dispatch_id, now) {
                Ok(granted) => {
                    let permit = self.take_slot(&mut state, dispatch_id, granted, now);
                    return Ok(Admission::Dispatched(permit));
                }
                Err(Blocked::Claiming(under_way)) => claims = Some(under_way),
                Err(Blocked::Failed(error)) => return Err(error),
                Err(Blocked::ByOthers | Blocked::Until(_)) => {}
            }
        }
        let position = Position {
            sequence,
            dispatch_id,
        };
        let is_retry = previous.is_some();
        let waiter = state.queue.enter(position, session, is_retry, now);
        state.queue.set_stage(&waiter, stage, now);
        Ok(Admission::Waiting(waiter, now, claims))
    }

    /// What `waiter` does next, unless it has a claim under way.
    ///
    /// # Errors
    ///
    /// [`Refused`]: it must not wait any longer.
    pub(super) fn next(&self, waiter: &Waiter, waker: &Waker) -> Result<Next, Refused> {
        let mut state = self.lock();
        let now = Instant::now();
        state.queue.set_waker(waiter, waker);
        state.refuse(waiter, now)?;
        state.invite(now);
        let Some(entry) = state.queue.entry(waiter) else {
            return Ok(Next::Wait(now));
        };
        Ok(match entry.stage {
            Stage::Invited | Stage::Preparing => Next::Prepare(entry.in_stage_for(SLOW, now)),
            Stage::Ready => Next::Prepare(None),
            Stage::Queued | Stage::TooLong(_) => {
                let deadline = state.deadline(entry.since);
                let most = state.may_prepare(now);
                let ahead = state.queue.ahead_within(waiter, most);
                let turn = ahead.map(|ahead| now + state.estimate_with(ahead, now));
                let begin = turn.and_then(|turn| turn.checked_sub(state.pacing.prepare_within));
                let begin = begin.filter(|begin| *begin > now);
                Next::Wait(begin.map_or(deadline, |begin| begin.min(deadline)))
            }
        })
    }

    /// When `waiter` is refused at the latest.
    pub(super) fn deadline(&self, waiter: &Waiter) -> Instant {
        let state = self.lock();
        let now = Instant::now();
        let since = state.queue.entry(waiter).map_or(now, |entry| entry.since);
        state.deadline(since)
    }

    /// `waiter` is not ready: another one may go first.
    pub(super) fn prepares(&self, waiter: &Waiter) {
        let mut state = self.lock();
        let now = Instant::now();
        let stage = state.queue.entry(waiter).map(|entry| entry.stage);
        if matches!(stage, Some(Stage::Invited | Stage::Ready)) {
            state.queue.set_stage(waiter, Stage::Preparing, now);
            state.queue.wake_candidate();
        }
    }

    /// Dispatches `waiter`, which is ready, if it is its turn. `granted` is its claim, if it has made
    /// one that was granted.
    pub(super) fn dispatch(
        &self,
        waiter: &Waiter,
        granted: Option<Claims>,
    ) -> Result<Permit, Blocked> {
        let mut state = self.lock();
        let now = Instant::now();
        let dispatch_id = waiter.position.dispatch_id;
        let claims = match granted {
            Some(claims) => {
                state.claiming = None;
                if let Some(blocked) = state.blocked_without_ledgers(now) {
                    drop(claims);
                    state.queue.wake_candidate();
                    return Err(blocked);
                }
                state.gap.take_interval().map_err(Blocked::Until)?;
                claims
            }
            None => {
                state.queue.set_stage(waiter, Stage::Ready, now);
                if !state.queue.is_candidate(waiter) || state.claiming.is_some() {
                    return Err(Blocked::ByOthers);
                }
                if let Some(blocked) = state.blocked_by(now) {
                    return Err(blocked);
                }
                state.claim(dispatch_id, now)?
            }
        };
        let permit = self.take_slot(&mut state, dispatch_id, claims, now);
        state.queue.serve(waiter);
        state.wake_next(now);
        Ok(permit)
    }

    /// The claim of `waiter` was not granted, or is not used.
    pub(super) fn end_claim(&self, waiter: &Waiter, claims: Claims) {
        let mut state = self.lock();
        drop(claims);
        state.end_claim(waiter);
        state.queue.wake_candidate();
    }

    pub(super) fn leave(&self, waiter: &Waiter, claims: Option<Claims>) {
        let mut state = self.lock();
        drop(claims);
        state.end_claim(waiter);
        state.queue.leave(waiter);
        state.wake_next(Instant::now());
    }

    /// Takes the slot of the dispatch `dispatch_id`, which leaves now.
    fn take_slot(
        &self,
        state: &mut GateState,
        dispatch_id: u64,
        claims: Claims,
        now: Instant,
    ) -> Permit {
        claims.left();
        state.in_flight.begin(dispatch_id, now);
        state.dispatched += 1;
        let is_ramping = state.backpressure.is_ramping(now);
        // A ledger may have taken its time since, and the gap begins when the request leaves.
        let departure = if state.ledgers.is_empty() {
            now
        } else {
            Instant::now()
        };
        state.gap.dispatched(&state.pacing, is_ramping, departure);
        state.backpressure.dispatched(dispatch_id);
        Permit {
            gate: self.clone(),
            dispatch_id,
            dispatched: now,
        }
    }

    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.0.lock()
    }
}

impl Feedback for Gate {
    fn accepted(&self, request: &RequestContext) {
        self.lock().accepted(request.dispatch_id());
    }

    fn refused(&self, request: &RequestContext, until: Instant, recovery: Recovery) {
        let mut state = self.lock();
        state
            .backpressure
            .refused(request.dispatch_id(), until, recovery);
        state.has_closed();
    }

    fn exhausted(&self, until: Instant) {
        let mut state = self.lock();
        state.backpressure.exhausted(until);
        state.has_closed();
    }

    fn estimate(&self) -> Duration {
        let state = self.lock();
        let ahead = state.queue.ahead_of_newcomer(None);
        state.estimate_with(ahead, Instant::now())
    }
}

// === impl GateState ===

impl GateState {
    /// Whether a new request need not wait. With `idle_jitter` every request waits.
    fn is_free(&self, now: Instant) -> bool {
        self.queue.len() == 0
            && !self.pacing.idle_jitter
            && self.claiming.is_none()
            && self.blocked_by(now).is_none()
    }

    fn start_from_idle(&mut self, now: Instant) {
        self.gap.start_from_idle(&self.pacing, now);
    }

    /// Claims a slot for the dispatch `dispatch_id`, which nothing else blocks.
    fn claim(&mut self, dispatch_id: u64, now: Instant) -> Result<Claims, Blocked> {
        let shrunk = self.backpressure.shrunk_until(now);
        let fraction = shrunk.map_or(Fraction::WHOLE, |_| Fraction::SHRUNK);
        let mut claims = Claims::new(&self.ledgers, fraction);
        match claims.try_now() {
            None => {
                self.claiming = Some(dispatch_id);
                Err(Blocked::Claiming(claims))
            }
            Some(Err(error)) => Err(Blocked::Failed(error)),
            // Quotas are reduced until `shrunk`, and no longer.
            Some(Ok(Claim::Wait(until))) => Err(Blocked::Until(
                shrunk.map_or(until, |shrunk| until.min(shrunk)),
            )),
            Some(Ok(Claim::Granted)) => match self.gap.take_interval() {
                Ok(()) => Ok(claims),
                Err(until) => Err(Blocked::Until(until)),
            },
        }
    }

    fn end_claim(&mut self, waiter: &Waiter) {
        if self.claiming == Some(waiter.position.dispatch_id) {
            self.claiming = None;
        }
    }

    /// Why the first request cannot be dispatched now.
    fn blocked_by(&self, now: Instant) -> Option<Blocked> {
        let slot = self.next_slot(0, now).filter(|slot| *slot > now);
        slot.map(Blocked::Until)
            .or_else(|| self.blocked_without_ledgers(now))
    }

    fn blocked_without_ledgers(&self, now: Instant) -> Option<Blocked> {
        let not_before = self.not_before();
        if not_before > now {
            return Some(Blocked::Until(not_before));
        }
        let waits_for_another = self.is_full(now) || self.backpressure.probe().is_some();
        waits_for_another.then_some(Blocked::ByOthers)
    }

    fn wait_reason(&self, now: Instant) -> WaitReason {
        let closed = self.backpressure.until();
        if closed.is_some_and(|until| until > now) {
            WaitReason::Closed
        } else if self.backpressure.probe().is_some() {
            WaitReason::Probe
        } else if self.next_slot(0, now).is_some_and(|slot| slot > now) {
            WaitReason::Quota
        } else if self.is_full(now) {
            WaitReason::Concurrency
        } else if self.gap.not_before() > now {
            WaitReason::Gap
        } else if self.claiming.is_some() {
            WaitReason::Ledger
        } else {
            WaitReason::Preparing
        }
    }

    /// Whether `waiter` must not wait any longer.
    fn refuse(&self, waiter: &Waiter, now: Instant) -> Result<(), Refused> {
        if let Some(refused) = self.closed_for_long(now) {
            return Err(refused);
        }
        let Some(entry) = self.queue.entry(waiter) else {
            return Ok(());
        };
        if let Stage::TooLong(estimate) = entry.stage {
            return Err(Refused::WouldWaitTooLong { estimate });
        }
        if self.draining && (entry.stage == Stage::Queued || self.blocked_by(now).is_some()) {
            return Err(Refused::Draining);
        }
        if now >= self.deadline(entry.since) {
            let ahead = self.queue.ahead_of(waiter.position.sequence);
            let estimate = self.estimate_with(ahead.unwrap_or_default(), now);
            return Err(Refused::WouldWaitTooLong { estimate });
        }
        Ok(())
    }

    /// The refusal of every request while no quota has a slot, or the upstream accepts none, within
    /// the longest wait.
    fn closed_for_long(&self, now: Instant) -> Option<Refused> {
        let too_late = now + self.pacing.max_wait;
        let slot = self.next_slot(0, now).filter(|slot| *slot > too_late);
        if let Some(slot) = slot.filter(|_| self.slots_are_settled()) {
            return Some(Refused::QuotaExhausted { reset: slot - now });
        }
        let until = self.backpressure.until();
        until.filter(|until| *until > too_late).map(|until| {
            let estimate = until - now;
            Refused::WouldWaitTooLong { estimate }
        })
    }

    /// Until when a request may wait that waits since `since`. An estimate may be wrong by the
    /// length of one answer, and a turn that comes at the end of that is taken.
    fn deadline(&self, since: Instant) -> Instant {
        since + self.pacing.max_wait + self.in_flight.mean() + LAST_MOMENT
    }

    /// Whether one more request may wait.
    fn admit(&self, session: Option<&Session>, now: Instant) -> Result<(), Refused> {
        let ahead = self.queue.ahead_of_newcomer(session);
        let estimate = self.estimate_with(ahead, now);
        let slot = self.next_slot(0, now);
        let reset = slot.map(|slot| slot.duration_since(now));
        let is_settled = self.slots_are_settled();
        if let Some(reset) = reset.filter(|reset| is_settled && *reset > self.pacing.max_wait) {
            return Err(Refused::QuotaExhausted { reset });
        }
        let waiting = self.queue.len();
        // A request that waits for nothing but its connection does not count.
        let need_not_wait = estimate.is_zero() && self.places_after(ahead, now) > 0;
        if waiting >= self.pacing.max_queue && !need_not_wait {
            return Err(Refused::QueueFull { waiting, estimate });
        }
        if is_settled && estimate > self.pacing.max_wait {
            return Err(Refused::WouldWaitTooLong { estimate });
        }
        Ok(())
    }

    /// Whether what the ledgers say is final: a slot that is being claimed may become free again.
    fn slots_are_settled(&self) -> bool {
        self.claiming.is_none()
    }

    /// How long a request waits with `ahead` others before it.
    fn estimate_with(&self, ahead: usize, now: Instant) -> Duration {
        let count = u32::try_from(ahead).unwrap_or(u32::MAX);
        let gaps = self.pacing.mean_gap(ahead).saturating_mul(count);
        let probe = self.backpressure.probe();
        let probe = probe.map(|probe| now + self.in_flight.remaining(probe, now));
        let first = self.not_before().max(now).max(probe.unwrap_or(now));
        let place = self.max_in_flight(now).map_or(now, |most| {
            now + self.in_flight.until_free(ahead, most, now)
        });
        let slot = self.next_slot(ahead, now).unwrap_or(now);
        (first + gaps).max(place).max(slot).duration_since(now)
    }

    /// When all ledgers allow a dispatch with `ahead` others before it; `None` is at once.
    fn next_slot(&self, ahead: usize, now: Instant) -> Option<Instant> {
        let slots = self.ledgers.iter().filter_map(|ledger| {
            match self.backpressure.shrunk_until(now) {
                None => ledger.next_slot(ahead, Fraction::WHOLE),
                // Quotas are reduced until `end`, and no longer.
                Some(end) => {
                    let shrunk = ledger.next_slot(ahead, Fraction::SHRUNK)?;
                    let whole = ledger.next_slot(ahead, Fraction::WHOLE);
                    Some(shrunk.min(whole.map_or(end, |whole| whole.max(end))))
                }
            }
        });
        slots.max().max(self.backpressure.exhausted_until(now))
    }

    fn not_before(&self) -> Instant {
        let paced = self.gap.not_before();
        self.backpressure
            .until()
            .map_or(paced, |until| until.max(paced))
    }

    fn is_full(&self, now: Instant) -> bool {
        self.places_after(0, now) == 0
    }

    /// How many places are free once `ahead` more requests have left.
    fn places_after(&self, ahead: usize, now: Instant) -> usize {
        self.max_in_flight(now).map_or(usize::MAX, |most| {
            most.saturating_sub(self.in_flight.len() + ahead)
        })
    }

    fn max_in_flight(&self, now: Instant) -> Option<usize> {
        let most = self.pacing.concurrency?;
        Some(self.backpressure.max_in_flight(most, now))
    }

    /// How many of the first requests may prepare, if their turns are near: as many as may leave
    /// within a second.
    fn may_prepare(&self, now: Instant) -> usize {
        let gap = self.pacing.mean_gap(0).as_millis();
        let in_a_second = 1000_u128.checked_div(gap).map_or(MAX_PREPARING, |more| {
            usize::try_from(more)
                .unwrap_or(MAX_PREPARING)
                .saturating_add(1)
        });
        let places = self.places_after(0, now).saturating_add(1);
        let slow = now
            .checked_sub(SLOW)
            .map_or(0, |instant| self.queue.preparing_since(instant));
        (in_a_second.min(places) + slow).min(MAX_PREPARING)
    }

    /// Lets the requests prepare whose turns are near.
    fn invite(&mut self, now: Instant) {
        if !self.queue.has_queued() {
            return;
        }
        let near = (0..self.may_prepare(now))
            .take_while(|ahead| self.estimate_with(*ahead, now) <= self.pacing.prepare_within)
            .count();
        self.queue.invite(near, now);
    }

    /// A request has left the queue, or a place has become free.
    fn wake_next(&mut self, now: Instant) {
        self.invite(now);
        self.queue.wake_candidate();
        if self.queue.has_queued() {
            // They look when to prepare.
            self.queue.wake_first(self.may_prepare(now));
        }
    }

    fn accepted(&mut self, dispatch_id: Option<u64>) {
        if self.backpressure.accepted(dispatch_id) {
            self.save();
            self.wake_next(Instant::now());
        }
    }

    /// No request may leave for a while.
    fn has_closed(&mut self) {
        let now = Instant::now();
        self.save();
        if self.estimate_with(0, now) > self.pacing.prepare_within {
            self.queue.uninvite(now);
        }
        // The wait may be too long now, for all of them.
        self.queue.wake_all();
    }

    /// Refuses the requests that would wait for too long, now that answers take longer than known
    /// before.
    fn judge_waits(&mut self, now: Instant) {
        let mean = self.in_flight.mean();
        if self.pacing.concurrency.is_none() || mean <= self.judged_by.mul_f32(1.1) {
            return;
        }
        self.judged_by = mean;
        let longest = self.pacing.max_wait + mean;
        let too_long: Vec<_> = self
            .queue
            .in_order()
            .enumerate()
            .filter(|(_, waiting)| !waiting.is_retry())
            .filter_map(|(ahead, waiting)| {
                let estimate = self.estimate_with(ahead, now);
                let whole = now.duration_since(waiting.entry.since) + estimate;
                (whole > longest).then(|| (waiting.to_waiter(), estimate))
            })
            .collect();
        for (waiter, estimate) in too_long {
            self.queue.move_to(&[waiter], Stage::TooLong(estimate), now);
        }
    }

    fn save(&self) {
        let saved = self.backpressure.saved(self.gap.last());
        for ledger in self.ledgers.iter() {
            ledger.remember(saved);
        }
    }
}

// === impl WaitReason ===

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "the upstream asked for a pause",
            Self::Concurrency => "the upstream is busy with earlier requests",
            Self::Gap => "requests are spaced out",
            Self::Ledger => "the request is being counted",
            Self::Preparing => "connecting to the upstream",
            Self::Probe => "one request tries whether the pause is over",
            Self::Quota => "the quota allows no request yet",
        })
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
        self.gate.lock().accepted(Some(self.dispatch_id));
    }

    /// The request never reached the upstream, so the upstream has not counted it.
    pub(crate) fn not_sent(&self) {
        for ledger in self.gate.lock().ledgers.iter() {
            ledger.unsent(self.dispatched);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        let now = Instant::now();
        state.in_flight.end(self.dispatch_id, now);
        state.backpressure.lost(self.dispatch_id);
        state.judge_waits(now);
        state.wake_next(now);
    }
}
