//! The gate: order, jitter, cancellation and accounting around governor's arithmetic, as plain
//! async code that knows no HTTP.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use rand::{RngExt, rngs::StdRng};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{pacing::Pacing, quota::Interval};
use crate::{cooldown::Cooldown, progress::Progress};

/// Lets requests through one by one; clones are the same gate.
///
/// One gate belongs to one account at one upstream, never to anything a client can choose.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Shared>);

/// Why a request was not let into the queue. It took no time and no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// As many requests wait as may.
    #[error("{waiting} requests are waiting already")]
    QueueFull {
        /// How many.
        waiting: usize,
        /// How long this one would have waited.
        estimate: Duration,
    },
    /// The queue is short enough, but slow.
    #[error("the wait would be about {} s", estimate.as_secs())]
    WouldWaitTooLong {
        /// How long this one would have waited.
        estimate: Duration,
    },
}

/// A turn at a [`Gate`], waited for.
///
/// Resolves in the poll in which the slot is taken, so whoever polls it must dispatch at once. The
/// first in the queue holds up all behind it: it must be polled when woken. Give each its own task
/// and never `select!` over a `&mut Acquire`.
///
/// # Cancel safety
///
/// Dropping it leaves the queue at once and spends nothing.
#[must_use = "futures do nothing unless polled"]
#[derive(Debug)]
pub struct Acquire {
    gate: Gate,
    progress: Option<Progress>,
    place: Option<Place>,
    arrived: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

/// A slot in flight, given back when dropped.
#[derive(Debug)]
pub struct Permit(Gate);

#[derive(Debug)]
struct Shared {
    pacing: Pacing,
    cooldown: Cooldown,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    waiters: BTreeMap<Place, Option<Waker>>,
    tickets: u64,
    entries: u64,
    in_flight: usize,
    dispatched: u64,
    interval: Interval,
    not_before: Instant,
    rng: StdRng,
}

/// First by ticket, which a request keeps over its retries; then by entry, which is unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    ticket: u64,
    entry: u64,
}

// === impl Gate ===

impl Gate {
    /// A gate that obeys `pacing` and `cooldown` and draws jitter from `rng`.
    pub fn new(pacing: Pacing, cooldown: Cooldown, rng: StdRng) -> Self {
        let state = State {
            waiters: BTreeMap::new(),
            tickets: 0,
            entries: 0,
            in_flight: 0,
            dispatched: 0,
            interval: Interval::new(pacing.min_interval),
            not_before: Instant::now(),
            rng,
        };
        Self(Arc::new(Shared {
            pacing,
            cooldown,
            state: Mutex::new(state),
        }))
    }

    /// A turn for a request. With a `progress` that has been through a gate before, the request
    /// keeps the place it had then and is not refused.
    ///
    /// # Errors
    ///
    /// Resolves to [`Refused`] at the first poll or not at all.
    pub fn acquire(&self, progress: Option<Progress>) -> Acquire {
        Acquire {
            gate: self.clone(),
            progress,
            place: None,
            arrived: None,
            sleep: None,
        }
    }

    /// How many requests wait.
    pub fn waiting(&self) -> usize {
        self.lock().waiters.len()
    }

    /// How many requests are in flight: dispatched, and their permits not yet dropped.
    pub fn in_flight(&self) -> usize {
        self.lock().in_flight
    }

    /// How many requests have been let through since the gate was made.
    pub fn dispatched(&self) -> u64 {
        self.lock().dispatched
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock, and the state is whole between any two lines.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, state: &mut State, progress: Option<&Progress>) -> Result<Place, Refused> {
        let pacing = &self.0.pacing;
        let now = Instant::now();
        let kept = progress.and_then(Progress::ticket);
        if kept.is_none() {
            self.admit(state, now)?;
        }
        if pacing.idle_jitter && state.waiters.is_empty() && state.not_before <= now {
            state.not_before = now + state.draw(pacing);
        }
        let ticket = kept.unwrap_or_else(|| {
            state.tickets += 1;
            state.tickets
        });
        if let Some(progress) = progress {
            progress.keep_ticket(ticket);
        }
        state.entries += 1;
        let place = Place {
            ticket,
            entry: state.entries,
        };
        state.waiters.insert(place, None);
        self.tell_backlog(state);
        Ok(place)
    }

    /// Whether one more may wait. What nobody can know, how long those in flight will take, counts
    /// as nothing.
    fn admit(&self, state: &State, now: Instant) -> Result<(), Refused> {
        let pacing = &self.0.pacing;
        let waiting = state.waiters.len();
        let places = u32::try_from(waiting).unwrap_or(u32::MAX);
        let first = self.not_before(state).duration_since(now);
        let estimate = first.saturating_add(pacing.mean_gap().saturating_mul(places));
        let at_once = waiting == 0 && first.is_zero() && !self.is_full(state);
        if waiting >= pacing.max_queue && !at_once {
            return Err(Refused::QueueFull { waiting, estimate });
        }
        if estimate > pacing.max_wait {
            return Err(Refused::WouldWaitTooLong { estimate });
        }
        Ok(())
    }

    fn is_full(&self, state: &State) -> bool {
        let most = self.0.pacing.concurrency;
        most.is_some_and(|most| state.in_flight >= most.get())
    }

    fn not_before(&self, state: &State) -> Instant {
        self.0
            .cooldown
            .until()
            .map_or(state.not_before, |until| until.max(state.not_before))
    }

    /// Dispatches `place` if it is its turn, else says when to look again, if time alone decides.
    fn dispatch(
        &self,
        state: &mut State,
        place: Place,
        waker: &Waker,
    ) -> Result<(), Option<Instant>> {
        let pacing = &self.0.pacing;
        let first = state.waiters.first_key_value().map(|(first, _)| *first);
        if first != Some(place) || self.is_full(state) {
            state.remember(place, waker);
            return Err(None);
        }
        let now = Instant::now();
        let not_before = self.not_before(state);
        if not_before > now {
            state.remember(place, waker);
            return Err(Some(not_before));
        }
        if let Err(free) = state.interval.take() {
            state.remember(place, waker);
            return Err(Some(free));
        }
        state.waiters.remove(&place);
        state.in_flight += 1;
        state.dispatched += 1;
        state.not_before = now + pacing.min_interval + state.draw(pacing);
        self.tell_backlog(state);
        state.wake_first();
        Ok(())
    }

    fn leave(&self, place: Place) {
        let mut state = self.lock();
        let was_first = state.waiters.first_key_value().map(|(first, _)| *first) == Some(place);
        state.waiters.remove(&place);
        self.tell_backlog(&state);
        if was_first {
            state.wake_first();
        }
    }

    fn tell_backlog(&self, state: &State) {
        let places = u32::try_from(state.waiters.len()).unwrap_or(u32::MAX);
        self.0
            .cooldown
            .set_backlog(self.0.pacing.mean_gap().saturating_mul(places));
    }
}

// === impl State ===

impl State {
    fn draw(&mut self, pacing: &Pacing) -> Duration {
        self.rng.random_range(pacing.jitter.clone())
    }

    fn remember(&mut self, place: Place, waker: &Waker) {
        match self.waiters.get_mut(&place) {
            Some(Some(known)) if known.will_wake(waker) => {}
            Some(slot) => *slot = Some(waker.clone()),
            None => {}
        }
    }

    fn wake_first(&self) {
        if let Some((_, Some(waker))) = self.waiters.first_key_value() {
            waker.wake_by_ref();
        }
    }
}

// === impl Acquire ===

impl Future for Acquire {
    type Output = Result<Permit, Refused>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let arrived = *this.arrived.get_or_insert_with(Instant::now);
        loop {
            let turn = {
                let mut state = this.gate.lock();
                let place = match this.place {
                    Some(place) => place,
                    None => *this
                        .place
                        .insert(this.gate.enter(&mut state, this.progress.as_ref())?),
                };
                this.gate.dispatch(&mut state, place, cx.waker())
            };
            match turn {
                Ok(()) => {
                    this.place = None;
                    if let Some(progress) = &this.progress {
                        progress.add_queued(arrived.elapsed());
                    }
                    return Poll::Ready(Ok(Permit(this.gate.clone())));
                }
                Err(None) => return Poll::Pending,
                Err(Some(instant)) => {
                    let sleep = match &mut this.sleep {
                        Some(sleep) => {
                            if sleep.deadline() != instant {
                                sleep.as_mut().reset(instant);
                            }
                            sleep
                        }
                        none => none.insert(Box::pin(sleep_until(instant))),
                    };
                    if sleep.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.gate.leave(place);
        }
    }
}

// === impl Permit ===

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.in_flight -= 1;
        state.wake_first();
    }
}
