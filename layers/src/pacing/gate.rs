//! The gate: order, jitter, cancellation and accounting around governor's arithmetic, as plain
//! async code that knows no HTTP.

use std::{sync::Arc, task::Waker, time::Duration};

use parking_lot::{Mutex, MutexGuard};
use rand::rngs::StdRng;
use tokio::time::Instant;

use super::{
    acquire::Acquire,
    backpressure::Closing,
    feedback::{Cooldown, Pace},
    gap::Tempo,
    ledger::{Quota, Share},
    queue::{Place, Queue, Spot},
    refused::Refused,
    settings::Pacing,
};
use crate::{context::Progress, session::Session};

/// Lets requests through one by one; clones are the same gate.
///
/// One gate belongs to one account at one upstream, never to anything a client can choose.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Shared>);

/// A slot in flight, given back when dropped.
#[derive(Debug)]
pub struct Permit {
    gate: Gate,
    entry: u64,
    dispatched: Instant,
}

/// Where a waiting request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// Its place, the first being 1.
    pub place: usize,
    /// How long it will still wait, about.
    pub eta: Duration,
}

/// What keeps a request from being dispatched now.
pub(super) enum Held {
    /// Somebody will wake it.
    ByOthers,
    /// Nothing but time.
    Until(Instant),
    /// It is not going to wait.
    No(Refused),
}

/// What comes of entering.
pub(super) enum Entered {
    /// Nobody waits and nothing holds it: it need not wait either.
    Dispatched(Permit),
    /// From now on.
    Waiting(Spot, Instant),
}

#[derive(Debug)]
struct Shared {
    pacing: Pacing,
    quotas: Vec<Arc<dyn Quota>>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    queue: Queue,
    tickets: u64,
    entries: u64,
    in_flight: usize,
    dispatched: u64,
    tempo: Tempo,
    closing: Closing,
}

// === impl Gate ===

impl Gate {
    /// A gate that obeys `pacing` and draws jitter from `rng`.
    pub fn new(pacing: Pacing, rng: StdRng) -> Self {
        Self::with_quotas(pacing, Vec::new(), rng)
    }

    /// A gate that obeys `pacing` and every one of `quotas`.
    pub fn with_quotas(pacing: Pacing, quotas: Vec<Arc<dyn Quota>>, rng: StdRng) -> Self {
        let state = State {
            queue: Queue::new(pacing.order),
            tickets: 0,
            entries: 0,
            in_flight: 0,
            dispatched: 0,
            tempo: Tempo::new(&pacing, rng),
            closing: Closing::default(),
        };
        Self(Arc::new(Shared {
            pacing,
            quotas,
            state: Mutex::new(state),
        }))
    }

    /// A turn for a request with `progress`. With one that has been through this gate before, the
    /// request goes before everybody and is not refused for the length of the queue.
    pub fn acquire(&self, progress: Option<Progress>) -> Acquire {
        Acquire::new(self.clone(), progress)
    }

    /// Where the request with `progress` stands, if it is waiting here.
    pub fn outlook(&self, progress: &Progress) -> Option<Outlook> {
        let state = self.lock();
        let ahead = state.queue.ahead_of(progress.ticket()?)?;
        Some(Outlook {
            place: ahead + 1,
            eta: self.estimate_with(&state, ahead, Instant::now()),
        })
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

    /// Lets a request in: at once, or to a place in the queue.
    pub(super) fn enter(&self, progress: Option<&Progress>) -> Result<Entered, Refused> {
        let mut state = self.lock();
        // Read under the lock and once: nobody can have come between this and the dispatch.
        let now = Instant::now();
        let session = progress.and_then(Progress::session);
        let kept = progress.and_then(Progress::ticket);
        let at_once = self.goes_at_once(&state, now);
        if !at_once && kept.is_none() {
            self.admit(&state, session, now)?;
        }
        if state.queue.len() == 0 {
            state.tempo.leave_idle(&self.0.pacing, now);
        }
        let ticket = kept.unwrap_or_else(|| {
            state.tickets += 1;
            state.tickets
        });
        if let Some(progress) = progress {
            progress.keep_ticket(ticket);
        }
        state.entries += 1;
        let entry = state.entries;
        if at_once && state.tempo.take_interval().is_ok() {
            return Ok(Entered::Dispatched(self.take_slot(&mut state, entry, now)));
        }
        let place = Place { ticket, entry };
        let spot = state.queue.enter(place, session, kept.is_some());
        Ok(Entered::Waiting(spot, now))
    }

    /// Dispatches the waiter at `spot` if it is its turn.
    pub(super) fn dispatch(&self, spot: &Spot, waker: &Waker) -> Result<Permit, Held> {
        let mut state = self.lock();
        let now = Instant::now();
        if let Some(held) = self.held(&state, spot, now) {
            state.queue.remember(spot, waker);
            return Err(held);
        }
        if let Err(free) = state.tempo.take_interval() {
            state.queue.remember(spot, waker);
            return Err(Held::Until(free));
        }
        let permit = self.take_slot(&mut state, spot.place.entry, now);
        state.queue.serve(spot);
        state.queue.wake_first();
        Ok(permit)
    }

    pub(super) fn leave(&self, spot: &Spot) {
        let mut state = self.lock();
        let was_first = state.queue.is_first(spot.place);
        state.queue.leave(spot);
        if was_first {
            state.queue.wake_first();
        }
    }

    /// Whether a newcomer need not wait. One that imitates a plugin's delay always does.
    fn goes_at_once(&self, state: &State, now: Instant) -> bool {
        let is_held = || self.obstacle(state, now).is_some();
        state.queue.len() == 0 && !self.0.pacing.idle_jitter && !is_held()
    }

    /// Takes the slot of the dispatch `entry`. What a quota writes down is no earlier than `now`.
    fn take_slot(&self, state: &mut State, entry: u64, now: Instant) -> Permit {
        for quota in &self.0.quotas {
            quota.spend();
        }
        state.in_flight += 1;
        state.dispatched += 1;
        let slower = state.closing.is_ramping(now);
        // A quota may have written to a disk meanwhile, and the gap begins when the request leaves.
        let left = if self.0.quotas.is_empty() {
            now
        } else {
            Instant::now()
        };
        state.tempo.dispatched(&self.0.pacing, slower, left);
        state.closing.dispatched(entry);
        Permit {
            gate: self.clone(),
            entry,
            dispatched: now,
        }
    }

    /// What keeps the waiter at `spot`, without taking anything.
    fn held(&self, state: &State, spot: &Spot, now: Instant) -> Option<Held> {
        if !state.queue.is_first(spot.place) {
            return Some(Held::ByOthers);
        }
        self.obstacle(state, now)
    }

    /// What keeps whoever is first.
    fn obstacle(&self, state: &State, now: Instant) -> Option<Held> {
        if self.is_full(state, now) {
            return Some(Held::ByOthers);
        }
        let too_late = now + self.0.pacing.max_wait;
        if let Some(room) = self.room(state, 0, now).filter(|room| *room > now) {
            return Some(if room > too_late {
                let reset = room - now;
                Held::No(Refused::QuotaExhausted { reset })
            } else {
                Held::Until(room)
            });
        }
        if let Some(until) = state.closing.until().filter(|until| *until > too_late) {
            let estimate = until - now;
            return Some(Held::No(Refused::WouldWaitTooLong { estimate }));
        }
        let not_before = state.not_before();
        if not_before > now {
            return Some(Held::Until(not_before));
        }
        state.closing.is_probing().then_some(Held::ByOthers)
    }

    /// Whether one more may wait. What nobody can know, how long those in flight will take, counts
    /// as nothing.
    fn admit(&self, state: &State, session: Option<&Session>, now: Instant) -> Result<(), Refused> {
        let pacing = &self.0.pacing;
        let waiting = state.queue.len();
        let ahead = state.queue.ahead_of_newcomer(session);
        let estimate = self.estimate_with(state, ahead, now);
        let room = self.room(state, 0, now);
        let reset = room.map(|room| room.duration_since(now));
        if let Some(reset) = reset.filter(|reset| *reset > pacing.max_wait) {
            return Err(Refused::QuotaExhausted { reset });
        }
        let at_once = waiting == 0 && estimate.is_zero() && !self.is_full(state, now);
        if waiting >= pacing.max_queue && !at_once {
            return Err(Refused::QueueFull { waiting, estimate });
        }
        if estimate > pacing.max_wait {
            return Err(Refused::WouldWaitTooLong { estimate });
        }
        Ok(())
    }

    /// How long a request waits that has `ahead` others before it.
    fn estimate_with(&self, state: &State, ahead: usize, now: Instant) -> Duration {
        let places = u32::try_from(ahead).unwrap_or(u32::MAX);
        let gaps = self.0.pacing.mean_gap(ahead).saturating_mul(places);
        let paced = state.not_before().max(now) + gaps;
        let room = self.room(state, ahead, now);
        let at = room.map_or(paced, |room| room.max(paced));
        at.duration_since(now)
    }

    /// When all quotas have room for a dispatch with `ahead` others before it; `None` is at once.
    fn room(&self, state: &State, ahead: usize, now: Instant) -> Option<Instant> {
        let quotas = self.0.quotas.iter();
        let rooms = quotas.filter_map(|quota| match state.closing.shrunk_until(now) {
            None => quota.room(ahead, Share::WHOLE),
            // Shrunk for as long as that lasts, and no longer.
            Some(end) => {
                let shrunk = quota.room(ahead, Share::SHRUNK)?;
                let whole = quota.room(ahead, Share::WHOLE);
                Some(shrunk.min(whole.map_or(end, |whole| whole.max(end))))
            }
        });
        rooms.max().max(state.closing.exhausted_until(now))
    }

    fn is_full(&self, state: &State, now: Instant) -> bool {
        let most = self.0.pacing.concurrency;
        most.is_some_and(|most| state.in_flight >= state.closing.at_once(most, now))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock()
    }
}

impl Cooldown for Gate {
    fn accepted(&self, request: &Progress) {
        let mut state = self.lock();
        if state.closing.accepted(request.entry()) {
            state.queue.wake_first();
        }
    }

    fn refused(&self, request: &Progress, until: Instant, pace: Pace) {
        let mut state = self.lock();
        state.closing.refused(request.entry(), until, pace);
        // Whoever is first may find that it is not going to wait that long.
        state.queue.wake_first();
    }

    fn exhausted(&self, until: Instant) {
        let mut state = self.lock();
        state.closing.exhausted(until);
        state.queue.wake_first();
    }

    fn estimate(&self) -> Duration {
        let state = self.lock();
        let ahead = state.queue.ahead_of_newcomer(None);
        self.estimate_with(&state, ahead, Instant::now())
    }
}

// === impl State ===

impl State {
    fn not_before(&self) -> Instant {
        let paced = self.tempo.not_before();
        self.closing.until().map_or(paced, |until| until.max(paced))
    }
}

// === impl Permit ===

impl Permit {
    /// Which dispatch this is, for [`Progress`] to remember.
    pub(super) fn entry(&self) -> u64 {
        self.entry
    }

    /// The upstream took the request on. [`JitterThrottle`](crate::jitter_throttle::JitterThrottle) says so when a
    /// head comes that is no error; what an error means, RetryOn429 finds out.
    pub fn accepted(&self) {
        let mut state = self.gate.lock();
        if state.closing.accepted(Some(self.entry)) {
            state.queue.wake_first();
        }
    }

    /// The request never reached the upstream, so that one has not counted it.
    pub(crate) fn not_sent(&self) {
        for quota in &self.gate.0.quotas {
            quota.give_back(self.dispatched);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        state.in_flight -= 1;
        state.closing.lost(self.entry);
        state.queue.wake_first();
    }
}
