//! The order of waiting requests.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    task::Waker,
};

use crate::context::Session;

/// The order in which requests leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Sessions take turns; within a session first come, first served, its own requests before its
    /// sub-agents'.
    #[default]
    Fair,
    /// First come, first served.
    Fifo,
}

/// Ordered by sequence, which a request keeps over its retries; then by dispatch_id, which is
/// unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) sequence: u64,
    pub(super) dispatch_id: u64,
}

/// A waiting request: its position and its lane.
#[derive(Clone, Debug)]
pub(super) struct Waiter {
    pub(super) position: Position,
    lane: Lane,
}

#[derive(Clone, Debug)]
enum Lane {
    /// Goes first, because the request has already waited.
    Retry,
    Own(Arc<str>),
    Child(Arc<str>),
}

/// Waiting requests. The first one is found without a search; leaving costs at most the number of
/// sessions.
#[derive(Debug)]
pub(super) struct Queue {
    order: Order,
    retries: Waiters,
    sessions: HashMap<Arc<str>, Lanes>,
    /// Sessions with a waiting request, in the order of their turns.
    turns: VecDeque<Arc<str>>,
    len: usize,
}

type Waiters = BTreeMap<Position, Option<Waker>>;

#[derive(Debug, Default)]
struct Lanes {
    own: Waiters,
    children: Waiters,
}

// === impl Queue ===

impl Queue {
    pub(super) fn new(order: Order) -> Self {
        Self {
            order,
            retries: Waiters::new(),
            sessions: HashMap::new(),
            turns: VecDeque::new(),
            len: 0,
        }
    }

    /// Adds a waiter at the end of its session's lane, or before all others if it is a retry.
    pub(super) fn enter(
        &mut self,
        position: Position,
        session: Option<&Session>,
        is_retry: bool,
    ) -> Waiter {
        let lane = if is_retry {
            Lane::Retry
        } else {
            self.lane(session)
        };
        self.len += 1;
        match &lane {
            Lane::Retry => {
                self.retries.insert(position, None);
            }
            Lane::Own(turn) | Lane::Child(turn) => {
                let lanes = self.sessions.entry(Arc::clone(turn)).or_default();
                if lanes.is_empty() {
                    self.turns.push_back(Arc::clone(turn));
                }
                lanes.of_mut(&lane).insert(position, None);
            }
        }
        Waiter { position, lane }
    }

    /// Removes a waiter that has been served; its session's next turn comes after the others'.
    pub(super) fn serve(&mut self, waiter: &Waiter) {
        if let Lane::Own(turn) | Lane::Child(turn) = &waiter.lane
            && self.turns.front() == Some(turn)
        {
            self.turns.rotate_left(1);
        }
        self.leave(waiter);
    }

    /// Removes a waiter that gave up.
    pub(super) fn leave(&mut self, waiter: &Waiter) {
        self.len -= 1;
        let (Lane::Own(turn) | Lane::Child(turn)) = &waiter.lane else {
            self.retries.remove(&waiter.position);
            return;
        };
        let Some(lanes) = self.sessions.get_mut(turn) else {
            return;
        };
        lanes.of_mut(&waiter.lane).remove(&waiter.position);
        if lanes.is_empty() {
            self.sessions.remove(turn);
            self.turns.retain(|waiting| waiting != turn);
        }
    }

    pub(super) fn set_waker(&mut self, waiter: &Waiter, waker: &Waker) {
        let waiters = match &waiter.lane {
            Lane::Retry => Some(&mut self.retries),
            Lane::Own(turn) | Lane::Child(turn) => self
                .sessions
                .get_mut(turn)
                .map(|lanes| lanes.of_mut(&waiter.lane)),
        };
        match waiters.and_then(|waiters| waiters.get_mut(&waiter.position)) {
            Some(Some(stored)) if stored.will_wake(waker) => {}
            Some(slot) => *slot = Some(waker.clone()),
            None => {}
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_first(&self, position: Position) -> bool {
        self.first().is_some_and(|(first, _)| *first == position)
    }

    pub(super) fn wake_first(&self) {
        if let Some((_, Some(waker))) = self.first() {
            waker.wake_by_ref();
        }
    }

    /// How many waiters are served before a new request of `session`.
    pub(super) fn ahead_of_newcomer(&self, session: Option<&Session>) -> usize {
        let lane = self.lane(session);
        let (Lane::Own(turn) | Lane::Child(turn)) = &lane else {
            return self.retries.len();
        };
        let before = self.sessions.get(turn).map_or(0, |lanes| match &lane {
            Lane::Child(_) => lanes.len(),
            _ => lanes.own.len(),
        });
        self.retries.len() + self.before_in_turns(turn, before)
    }

    /// How many waiters are served before the one with `sequence`.
    pub(super) fn ahead_of(&self, sequence: u64) -> Option<usize> {
        let position = |waiters: &Waiters| waiters.keys().position(|p| p.sequence == sequence);
        if let Some(before) = position(&self.retries) {
            return Some(before);
        }
        self.sessions.iter().find_map(|(turn, lanes)| {
            let own = position(&lanes.own);
            let before = own.or_else(|| Some(lanes.own.len() + position(&lanes.children)?))?;
            Some(self.retries.len() + self.before_in_turns(turn, before))
        })
    }

    /// With `before` waiters of its own session ahead, how many waiters of all sessions are.
    fn before_in_turns(&self, turn: &Arc<str>, before: usize) -> usize {
        let turns = &self.turns;
        let at = turns
            .iter()
            .position(|stored| stored == turn)
            .unwrap_or(turns.len());
        let others: usize = turns
            .iter()
            .enumerate()
            .filter(|(index, _)| *index != at)
            .filter_map(|(index, other)| {
                let rounds = before + usize::from(index < at);
                Some(self.sessions.get(other)?.len().min(rounds))
            })
            .sum();
        before + others
    }

    fn first(&self) -> Option<(&Position, &Option<Waker>)> {
        self.retries
            .first_key_value()
            .or_else(|| self.sessions.get(self.turns.front()?)?.first())
    }

    fn lane(&self, session: Option<&Session>) -> Lane {
        match (self.order, session) {
            (Order::Fair, Some(session)) if session.is_child() => {
                Lane::Child(Arc::clone(session.turn()))
            }
            (Order::Fair, Some(session)) => Lane::Own(Arc::clone(session.turn())),
            _ => Lane::Own(Arc::from("")),
        }
    }
}

// === impl Lanes ===

impl Lanes {
    fn of_mut(&mut self, lane: &Lane) -> &mut Waiters {
        match lane {
            Lane::Child(_) => &mut self.children,
            _ => &mut self.own,
        }
    }

    fn first(&self) -> Option<(&Position, &Option<Waker>)> {
        self.own
            .first_key_value()
            .or_else(|| self.children.first_key_value())
    }

    fn len(&self) -> usize {
        self.own.len() + self.children.len()
    }

    fn is_empty(&self) -> bool {
        self.own.is_empty() && self.children.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Serves all waiters and returns their names in order.
    fn drain(queue: &mut Queue, waiters: &[(&'static str, Waiter)]) -> Vec<&'static str> {
        let mut served = Vec::new();
        while queue.len() > 0 {
            let (name, waiter) = waiters
                .iter()
                .find(|(_, waiter)| queue.is_first(waiter.position))
                .unwrap();
            assert_eq!(queue.ahead_of(waiter.position.sequence), Some(0));
            queue.serve(waiter);
            served.push(*name);
        }
        served
    }

    /// Enters requests in order; `is_retry` marks a retry.
    fn fill(
        queue: &mut Queue,
        requests: &[(&'static str, Option<Session>, bool)],
    ) -> Vec<(&'static str, Waiter)> {
        let numbers = 1_u64..;
        requests
            .iter()
            .zip(numbers)
            .map(|((name, session, is_retry), number)| {
                let position = Position {
                    sequence: number,
                    dispatch_id: number,
                };
                let ahead = queue.ahead_of_newcomer(session.as_ref());
                let waiter = queue.enter(position, session.as_ref(), *is_retry);
                if !is_retry {
                    assert_eq!(queue.ahead_of(number), Some(ahead), "{name}");
                }
                (*name, waiter)
            })
            .collect()
    }

    fn session(id: &str) -> Option<Session> {
        Some(Session::new(id))
    }

    fn child(id: &str, parent: &str) -> Option<Session> {
        Some(Session::new(id).child_of(parent))
    }

    #[test]
    fn sessions_take_turns_and_own_requests_precede_sub_agents() {
        let mut queue = Queue::new(Order::Fair);
        let waiters = fill(
            &mut queue,
            &[
                ("a's child", child("a1", "a"), false),
                ("a", session("a"), false),
                ("a's other child", child("a2", "a"), false),
                ("b", session("b"), false),
                ("b again", session("b"), false),
                ("c", None, false),
            ],
        );
        assert_eq!(
            drain(&mut queue, &waiters),
            ["a", "b", "c", "a's child", "b again", "a's other child"]
        );
    }

    #[test]
    fn a_retry_goes_first() {
        let mut queue = Queue::new(Order::Fair);
        let waiters = fill(
            &mut queue,
            &[
                ("a", session("a"), false),
                ("b", session("b"), false),
                ("retry", session("b"), true),
            ],
        );
        assert_eq!(drain(&mut queue, &waiters), ["retry", "a", "b"]);
    }

    #[test]
    fn fifo_knows_no_sessions() {
        let mut queue = Queue::new(Order::Fifo);
        let waiters = fill(
            &mut queue,
            &[
                ("a", session("a"), false),
                ("a's child", child("a1", "a"), false),
                ("a again", session("a"), false),
                ("b", session("b"), false),
            ],
        );
        assert_eq!(
            drain(&mut queue, &waiters),
            ["a", "a's child", "a again", "b"]
        );
    }

    #[test]
    fn a_session_that_gives_up_leaves_no_turn_behind() {
        let mut queue = Queue::new(Order::Fair);
        let waiters = fill(
            &mut queue,
            &[("a", session("a"), false), ("b", session("b"), false)],
        );
        queue.leave(&waiters[0].1);
        assert_eq!(queue.len(), 1);
        assert!(queue.is_first(waiters[1].1.position));
        queue.leave(&waiters[1].1);
        assert!(queue.sessions.is_empty() && queue.turns.is_empty());
    }
}
