//! What all attempts of one request have in common.
//!
//! [`RequestContext`] travels in the request's extensions and is the only one there that layers know. The
//! server puts it there, with the session that sent the request;
//! [`RetryOn429`](crate::RetryOn429Layer) adds one if there is none.
//! [`JitterThrottle`](crate::JitterThrottleLayer) lets sessions take turns by it, and notes the time
//! spent waiting and the place in the order; the client at the bottom of the pipeline counts every
//! attempt. All clones of a request share one `RequestContext`, so the server can read the totals when the
//! response comes. Without one, layers work the same and note nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::session::Session;

/// Session, attempts, time in the queue and place in the order of one request; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct RequestContext(Arc<Common>);

#[derive(Debug, Default)]
struct Common {
    session: Option<Session>,
    attempts: AtomicU32,
    queued_micros: AtomicU64,
    sequence: AtomicU64,
    dispatch_id: AtomicU64,
    judged_outside: AtomicBool,
}

impl RequestContext {
    /// A request of nobody in particular that has just arrived.
    pub fn new() -> Self {
        Self::default()
    }

    /// A request of `session` that has just arrived.
    pub fn of(session: Session) -> Self {
        Self(Arc::new(Common {
            session: Some(session),
            ..Common::default()
        }))
    }

    /// On whose behalf the request is sent.
    pub fn session(&self) -> Option<&Session> {
        self.0.session.as_ref()
    }

    /// How often the request was handed to the client, the first time included.
    pub fn attempts(&self) -> u32 {
        self.0.attempts.load(Ordering::Relaxed)
    }

    /// Notes that the request is being handed to the client.
    pub fn count_attempt(&self) {
        self.0.attempts.fetch_add(1, Ordering::Relaxed);
    }

    /// The time spent waiting for a turn, all attempts together.
    pub fn queued(&self) -> Duration {
        Duration::from_micros(self.0.queued_micros.load(Ordering::Relaxed))
    }

    /// Adds to the time spent waiting for a turn.
    pub fn add_queued(&self, waited: Duration) {
        let micros = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
        self.0.queued_micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// The place in the order, once the gate has given one.
    pub(crate) fn sequence(&self) -> Option<u64> {
        Some(self.0.sequence.load(Ordering::Relaxed)).filter(|sequence| *sequence > 0)
    }

    /// Keeps `sequence`, which is not zero, as the place in the order; the first one stays.
    pub(crate) fn keep_sequence(&self, sequence: u64) {
        let _first_wins =
            self.0
                .sequence
                .compare_exchange(0, sequence, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The latest dispatch of this request, if there was one.
    pub(crate) fn dispatch_id(&self) -> Option<u64> {
        Some(self.0.dispatch_id.load(Ordering::Relaxed)).filter(|dispatch_id| *dispatch_id > 0)
    }

    /// Keeps `dispatch_id`, which is not zero, as the latest dispatch.
    pub(crate) fn keep_dispatch_id(&self, dispatch_id: u64) {
        self.0.dispatch_id.store(dispatch_id, Ordering::Relaxed);
    }

    /// Whether somebody further out tells the [`Feedback`](crate::pacing::Feedback) how the request
    /// was answered, also where the head alone says that all is well.
    pub(crate) fn is_judged_outside(&self) -> bool {
        self.0.judged_outside.load(Ordering::Relaxed)
    }

    /// Whoever calls this will do so.
    pub(crate) fn judge_outside(&self) {
        self.0.judged_outside.store(true, Ordering::Relaxed);
    }
}
