//! All connections, and which one is closed when there are too many.
//!
//! An attacker holds slots with idle connections or half-sent request heads, because that is cheap.
//! So a new connection evicts an idle one, else the one that has been sending its request head the
//! longest; an honest client needs a few milliseconds for a head. When every connection is busy,
//! the new client gets 503: if it waited in the system's backlog, the gateway would seem to hang.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{Notify, futures::OwnedNotified};

use super::connection::Connection;

/// The most connections over the limit that are accepted to send 503. There are never more than
/// the limit itself, and any further connection is closed at once.
pub(crate) const MOST_SPARE: usize = 64;

/// All open connections.
#[derive(Clone, Debug, Default)]
pub(super) struct ConnectionLimit {
    all: Arc<Mutex<HashMap<u64, Connection>>>,
    closed: Arc<Notify>,
}

/// The slot of a connection, free when dropped.
#[derive(Debug)]
pub(super) struct Slot {
    limit: ConnectionLimit,
    number: u64,
}

/// Every connection is busy.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("as many clients as max-connections allows are being served; this one has to ask again")]
pub(crate) struct AtCapacity;

// === impl ConnectionLimit ===

impl ConnectionLimit {
    /// A slot for `connection`, which may evict another connection. `None` if there is no slot, not
    /// even for a 503.
    pub(super) fn enter(&self, connection: &Connection, most: usize) -> Option<Slot> {
        let mut all = self.all.lock();
        if all.len() >= most {
            evict_one(&mut all);
        }
        if all.len() >= most.saturating_add(most.min(MOST_SPARE)) {
            return None;
        }
        if all.len() >= most {
            connection.mark_over_limit();
        }
        let number = connection.number();
        all.insert(number, connection.clone());
        Some(Slot {
            limit: self.clone(),
            number,
        })
    }

    /// Evicts a connection as if the limit were reached. Returns whether there was one to evict.
    pub(super) fn evict(&self) -> bool {
        evict_one(&mut self.all.lock())
    }

    /// Resolves when a connection has closed since this call.
    pub(super) fn closed(&self) -> OwnedNotified {
        self.closed.clone().notified_owned()
    }
}

fn evict_one(all: &mut HashMap<u64, Connection>) -> bool {
    let victim = next_victim(all).and_then(|number| all.remove(&number));
    if let Some(victim) = &victim {
        victim.evict();
    }
    victim.is_some()
}

fn next_victim(all: &HashMap<u64, Connection>) -> Option<u64> {
    let ranked = all
        .values()
        .filter_map(|connection| Some((connection.eviction_rank()?, connection.number())));
    ranked.min().map(|(_, number)| number)
}

// === impl Slot ===

impl Drop for Slot {
    fn drop(&mut self) {
        self.limit.all.lock().remove(&self.number);
        self.limit.closed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(number: usize) -> Vec<Connection> {
        (0..number).map(|_| Connection::new()).collect()
    }

    fn enter(
        limit: &ConnectionLimit,
        connections: &[Connection],
        most: usize,
    ) -> Vec<Option<Slot>> {
        let enter = |connection| limit.enter(connection, most);
        connections.iter().map(enter).collect()
    }

    #[test]
    fn over_the_limit_the_oldest_unfinished_head_is_evicted() {
        let (limit, all) = (ConnectionLimit::default(), connections(4));
        let _slots = enter(&limit, &all[..3], 3);
        assert!(all.iter().all(|it| !it.is_evicted()));
        let _busy = all[0].begin_response();
        let _slot = limit.enter(&all[3], 3).unwrap();
        let evicted: Vec<_> = all.iter().map(Connection::is_evicted).collect();
        assert_eq!(evicted, [false, true, false, false]);
        assert!(!all[3].is_over_limit());
    }

    #[test]
    fn an_idle_connection_is_evicted_before_an_unfinished_head() {
        let (limit, all) = (ConnectionLimit::default(), connections(3));
        let _slots = enter(&limit, &all[..2], 2);
        drop(all[1].begin_response());
        let _slot = limit.enter(&all[2], 2).unwrap();
        assert!(all[1].is_evicted() && !all[0].is_evicted());
    }

    #[test]
    fn a_connection_over_a_busy_limit_is_accepted_for_a_503() {
        for (most, spare) in [(2, 2), (100, MOST_SPARE)] {
            let (limit, all) = (ConnectionLimit::default(), connections(most + spare + 1));
            let _busy: Vec<_> = all.iter().map(Connection::begin_response).collect();
            let slots = enter(&limit, &all, most);
            let accepted = slots.iter().filter(|it| it.is_some()).count();
            assert_eq!(accepted, most + spare);
            assert!(slots.last().unwrap().is_none());
            let over_limit = all.iter().filter(|it| it.is_over_limit()).count();
            assert_eq!(over_limit, spare);
            assert!(
                all.iter().all(|it| !it.is_evicted()),
                "a busy one was evicted"
            );
            assert!(!limit.evict());
            drop(slots);
            assert!(limit.all.lock().is_empty());
        }
    }

    #[test]
    fn below_the_limit_an_eviction_on_demand_takes_the_same_connection() {
        let (limit, all) = (ConnectionLimit::default(), connections(3));
        let mut slots = enter(&limit, &all, 3);
        let _busy = all[0].begin_response();
        drop(all[2].begin_response());
        let mut closed = tokio_test::task::spawn(limit.closed());
        assert!(limit.evict());
        let evicted: Vec<_> = all.iter().map(Connection::is_evicted).collect();
        assert_eq!(evicted, [false, false, true], "the idle one");
        tokio_test::assert_pending!(closed.poll());
        slots.pop();
        tokio_test::assert_ready!(closed.poll());
    }
}
