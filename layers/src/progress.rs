//! What all tries of one request have in common.
//!
//! [`Progress`] travels in the request's extensions and is the only one there that layers know: a
//! second one would make every copy of a request dearer. Whoever takes requests in puts it there and
//! says in it on whose behalf the request is sent; [`RetryOn429`](crate::RetryOn429Layer) does if
//! nobody did before. [`JitterThrottle`](crate::JitterThrottleLayer) lets sessions take turns by it,
//! and notes the time spent waiting and the place in the order;
//! [`Deferred`](crate::header_align::DeferredLayer) leaves the client's headers in it; the client at
//! the bottom of the pipeline counts every attempt. All clones of a request share one `Progress`, so
//! whoever made the first one can read the totals when the answer comes. Without one, layers work
//! the same and note nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{header_align::Aside, session::Session};

/// Session, attempts, time in the queue and place in the order of one request; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    common: Arc<Common>,
    /// Of the request that it was left in and of that one's copies.
    aside: Option<Arc<Aside>>,
}

#[derive(Debug, Default)]
struct Common {
    session: Option<Session>,
    attempts: AtomicU32,
    queued_micros: AtomicU64,
    ticket: AtomicU64,
    entry: AtomicU64,
    judged_outside: AtomicBool,
}

impl Progress {
    /// A request of nobody in particular that has just arrived.
    pub fn new() -> Self {
        Self::default()
    }

    /// A request of `session` that has just arrived.
    pub fn of(session: Session) -> Self {
        let common = Arc::new(Common {
            session: Some(session),
            ..Common::default()
        });
        Self {
            common,
            aside: None,
        }
    }

    /// On whose behalf the request is sent.
    pub fn session(&self) -> Option<&Session> {
        self.common.session.as_ref()
    }

    /// How often the request was handed to the client, the first time included.
    pub fn attempts(&self) -> u32 {
        self.common.attempts.load(Ordering::Relaxed)
    }

    /// Notes that the request is being handed to the client.
    pub fn count_attempt(&self) {
        self.common.attempts.fetch_add(1, Ordering::Relaxed);
    }

    /// The time spent waiting for a turn, all attempts together.
    pub fn queued(&self) -> Duration {
        Duration::from_micros(self.common.queued_micros.load(Ordering::Relaxed))
    }

    /// Adds to the time spent waiting for a turn.
    pub fn add_queued(&self, waited: Duration) {
        let micros = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
        self.common
            .queued_micros
            .fetch_add(micros, Ordering::Relaxed);
    }

    /// What the request's fields are made of, if that was left here.
    pub(crate) fn aside(&self) -> Option<&Aside> {
        self.aside.as_deref()
    }

    pub(crate) fn set_aside(&mut self, aside: Aside) {
        self.aside = Some(Arc::new(aside));
    }

    pub(crate) fn forget_aside(&mut self) {
        self.aside = None;
    }

    /// The place in the order, once the gate has given one.
    pub(crate) fn ticket(&self) -> Option<u64> {
        Some(self.common.ticket.load(Ordering::Relaxed)).filter(|ticket| *ticket > 0)
    }

    /// Keeps `ticket`, which is not zero, as the place in the order; the first one stays.
    pub(crate) fn keep_ticket(&self, ticket: u64) {
        let _first_wins =
            self.common
                .ticket
                .compare_exchange(0, ticket, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The latest dispatch of this request, if there was one.
    pub(crate) fn entry(&self) -> Option<u64> {
        Some(self.common.entry.load(Ordering::Relaxed)).filter(|entry| *entry > 0)
    }

    /// Keeps `entry`, which is not zero, as the latest dispatch.
    pub(crate) fn keep_entry(&self, entry: u64) {
        self.common.entry.store(entry, Ordering::Relaxed);
    }

    /// Whether somebody further out tells the [`Cooldown`](crate::cooldown::Cooldown) how the request
    /// was answered, also where the head alone says that all is well.
    pub(crate) fn is_judged_outside(&self) -> bool {
        self.common.judged_outside.load(Ordering::Relaxed)
    }

    /// Whoever calls this will do so.
    pub(crate) fn judge_outside(&self) {
        self.common.judged_outside.store(true, Ordering::Relaxed);
    }
}
