//! All connections, and which of them goes when there are too many.
//!
//! Whoever opens connections to keep others out leaves them silent or half a head long, for that is
//! what costs nothing. So a newcomer is let in at the cost of an idle connection, else of the one
//! that has owed a whole head for the longest; a client that means it needs a few milliseconds for
//! one. Where every connection is at work, the newcomer is told so: waiting in the system's backlog
//! would look like a gateway that hangs.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use super::connection::Connection;

/// Connections beyond the limit that are there to be told so. If there are more of them the newest
/// is closed at once.
const SPARE: usize = 64;

/// All connections that are open.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConnectionLimit(Arc<Mutex<HashMap<u64, Connection>>>);

/// One connection's place, free when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    limit: ConnectionLimit,
    number: u64,
}

/// Every connection is at work.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("as many clients as max-connections allows are being served; this one has to ask again")]
pub(crate) struct AtCapacity;

// === impl ConnectionLimit ===

impl ConnectionLimit {
    /// Takes `connection` in, which may cost another one its place. `None` if there is no room, not
    /// even to be told so.
    pub(crate) fn enter(&self, connection: &Connection, most: usize) -> Option<Slot> {
        let mut all = self.0.lock();
        if all.len() >= most
            && let Some(victim) = eviction_rank(&all)
            && let Some(victim) = all.remove(&victim)
        {
            victim.evict();
        }
        if all.len() >= most.saturating_add(SPARE) {
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
}

fn eviction_rank(all: &HashMap<u64, Connection>) -> Option<u64> {
    let ranked = all
        .values()
        .filter_map(|connection| Some((connection.eviction_rank()?, connection.number())));
    ranked.min().map(|(_, number)| number)
}

// === impl Slot ===

impl Drop for Slot {
    fn drop(&mut self) {
        self.limit.0.lock().remove(&self.number);
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
    fn the_last_one_that_fits_costs_nobody_a_place_and_the_next_one_the_oldest_that_owes_a_head() {
        let (limit, all) = (ConnectionLimit::default(), connections(4));
        let _places = enter(&limit, &all[..3], 3);
        assert!(all.iter().all(|it| !it.is_evicted()));
        all[0].begin_answer();
        let _place = limit.enter(&all[3], 3).unwrap();
        let evicted: Vec<_> = all.iter().map(Connection::is_evicted).collect();
        assert_eq!(evicted, [false, true, false, false]);
        assert!(!all[3].is_over_limit());
    }

    #[test]
    fn an_idle_one_goes_before_one_that_owes_a_head() {
        let (limit, all) = (ConnectionLimit::default(), connections(3));
        let _places = enter(&limit, &all[..2], 2);
        all[1].begin_answer();
        all[1].end_answer();
        let _place = limit.enter(&all[2], 2).unwrap();
        assert!(all[1].is_evicted() && !all[0].is_evicted());
    }

    #[test]
    fn where_all_are_at_work_a_newcomer_is_let_in_to_be_told_so() {
        let (limit, all) = (ConnectionLimit::default(), connections(2 + SPARE + 1));
        all.iter().for_each(Connection::begin_answer);
        let places = enter(&limit, &all, 2);
        assert_eq!(places.iter().filter(|it| it.is_some()).count(), 2 + SPARE);
        assert!(places.last().unwrap().is_none());
        let told = all.iter().filter(|it| it.is_over_limit()).count();
        assert_eq!(told, SPARE);
        assert!(all.iter().all(|it| !it.is_evicted()), "one at work lost it");
        drop(places);
        assert!(limit.0.lock().is_empty());
    }
}
