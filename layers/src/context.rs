//! What is known about one request, over all its attempts.
//!
//! A [`RequestContext`] travels in the request's extensions; layers read no other extension there.
//! The program around the layers inserts it, with the session that sent the request, and may set
//! the upstream and whether a stream is expected; [`RetryOn429`](crate::RetryOn429Layer) adds one
//! if there is none.
//! [`JitterThrottle`](crate::JitterThrottleLayer) lets sessions take turns by it, and records the
//! time in the queue and the queue position; the HTTP client counts every attempt. All clones of a
//! request share one context, so the program can read the totals when the response arrives. Without
//! a context, layers work the same and record nothing.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

/// Session, upstream, attempts, time in the queue and queue position of one request; clones share
/// them.
#[derive(Clone, Debug, Default)]
pub struct RequestContext(Arc<ContextInner>);

#[derive(Debug, Default)]
struct ContextInner {
    session: Option<Session>,
    upstream: OnceLock<Arc<str>>,
    expects_stream: AtomicBool,
    attempts: AtomicU32,
    queued_micros: AtomicU64,
    sequence: AtomicU64,
    dispatch_id: AtomicU64,
}

/// A client's session, and its parent session if it belongs to a sub-agent. Requests without a
/// session share one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    id: Arc<str>,
    parent: Option<Arc<str>>,
}

// === impl RequestContext ===

impl RequestContext {
    /// A context without a session, for a request that has just arrived.
    pub fn new() -> Self {
        Self::default()
    }

    /// A context for a request of `session` that has just arrived.
    pub fn of(session: Session) -> Self {
        Self(Arc::new(ContextInner {
            session: Some(session),
            ..ContextInner::default()
        }))
    }

    /// The session that the request belongs to.
    pub fn session(&self) -> Option<&Session> {
        self.0.session.as_ref()
    }

    /// The name of the request's upstream, once it is known.
    pub fn upstream(&self) -> Option<&str> {
        self.0.upstream.get().map(AsRef::as_ref)
    }

    /// Sets the name of the upstream; the first one stays.
    pub fn set_upstream(&self, name: Arc<str>) {
        let _first_wins = self.0.upstream.set(name);
    }

    /// Whether the client asked for an event stream.
    pub fn expects_stream(&self) -> bool {
        self.0.expects_stream.load(Ordering::Relaxed)
    }

    /// Records that the client asked for an event stream.
    pub fn expect_stream(&self) {
        self.0.expects_stream.store(true, Ordering::Relaxed);
    }

    /// How often the request was passed to the HTTP client, or could not be because there was no
    /// connection or no token, the first time included.
    pub fn attempts(&self) -> u32 {
        self.0.attempts.load(Ordering::Relaxed)
    }

    /// Counts an attempt: the request is being passed to the HTTP client, or cannot be.
    pub fn count_attempt(&self) {
        self.0.attempts.fetch_add(1, Ordering::Relaxed);
    }

    /// The time spent in the queue, all attempts together.
    pub fn queued(&self) -> Duration {
        Duration::from_micros(self.0.queued_micros.load(Ordering::Relaxed))
    }

    /// Adds to the time spent in the queue.
    pub fn add_queued(&self, waited: Duration) {
        let micros = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
        self.0.queued_micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// The sequence number in the queue, once the gate has assigned one.
    pub(crate) fn sequence(&self) -> Option<u64> {
        Some(self.0.sequence.load(Ordering::Relaxed)).filter(|sequence| *sequence > 0)
    }

    /// Sets the sequence number, which is not zero; the first one stays.
    pub(crate) fn set_sequence(&self, sequence: u64) {
        let _first_wins =
            self.0
                .sequence
                .compare_exchange(0, sequence, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The latest dispatch of this request, if there was one.
    pub(crate) fn dispatch_id(&self) -> Option<u64> {
        Some(self.0.dispatch_id.load(Ordering::Relaxed)).filter(|id| *id > 0)
    }

    /// Sets the latest dispatch, whose number is not zero.
    pub(crate) fn set_dispatch_id(&self, dispatch_id: u64) {
        self.0.dispatch_id.store(dispatch_id, Ordering::Relaxed);
    }
}

// === impl Session ===

impl Session {
    /// A session without a parent.
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self {
            id: id.into(),
            parent: None,
        }
    }

    /// Makes it a sub-agent's session: its requests take `parent`'s turns, after `parent`'s own
    /// requests.
    #[must_use]
    pub fn child_of(mut self, parent: impl Into<Arc<str>>) -> Self {
        self.parent = Some(parent.into());
        self
    }

    /// The session's name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The name of the session whose turns it takes.
    pub(crate) fn turn(&self) -> &Arc<str> {
        self.parent.as_ref().unwrap_or(&self.id)
    }

    pub(crate) fn is_child(&self) -> bool {
        self.parent.is_some()
    }
}
