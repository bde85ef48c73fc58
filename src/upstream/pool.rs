//! Idle HTTP/1.1 connections to one origin, the freshest on top.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::h1::Connection;

/// More than any preset sends at once, and enough for a crowd that comes again: a connection that was
/// closed too early costs a handshake. What goes beyond is closed, not kept.
const MAX_IDLE: usize = 256;

/// Past this age the other side has usually hung up, and a NAT in between has forgotten the
/// connection without a word, which nobody would notice before the head time-out.
const MAX_IDLE_AGE: Duration = Duration::from_secs(90);

/// A stack, so that the fewest connections stay warm and the rest grow old.
#[derive(Default)]
pub(super) struct Pool(Mutex<VecDeque<Idle>>);

struct Idle {
    connection: Box<Connection>,
    since: Instant,
}

// === impl Pool ===

impl Pool {
    /// The connection that was used last; it may have been closed by the other side since.
    pub(super) fn take(&self) -> Option<Box<Connection>> {
        let mut stack = self.lock();
        drop_expired(&mut stack);
        stack.pop_back().map(|idle| idle.connection)
    }

    /// Keeps a connection that is ready for another request.
    pub(super) fn put(&self, connection: Box<Connection>) {
        let mut stack = self.lock();
        drop_expired(&mut stack);
        if stack.len() == MAX_IDLE {
            stack.pop_front();
        }
        stack.push_back(Idle {
            connection,
            since: Instant::now(),
        });
    }

    pub(super) fn len(&self) -> usize {
        let mut stack = self.lock();
        drop_expired(&mut stack);
        stack.len()
    }

    /// Nothing that runs under the lock can leave the stack half-changed.
    fn lock(&self) -> MutexGuard<'_, VecDeque<Idle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bottom of the stack is the oldest.
fn drop_expired(stack: &mut VecDeque<Idle>) {
    while stack
        .front()
        .is_some_and(|idle| idle.since.elapsed() > MAX_IDLE_AGE)
    {
        stack.pop_front();
    }
}
