//! The order of waiting requests, and how far each has prepared.

use std::{
    collections::{BTreeMap, HashMap, VecDeque, btree_map},
    sync::Arc,
    task::Waker,
    time::Duration,
};

use tokio::time::Instant;

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

/// How far a waiting request has prepared to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its turn is too far away to prepare.
    Queued,
    /// May prepare, and has not been polled since: it may be ready at once.
    Invited,
    /// Gets a connection and a token.
    Preparing,
    /// Can leave at once.
    Ready,
    /// Would wait for too long: that long from now on.
    TooLong(Duration),
}

/// Waiting requests. The first one is found without a search; leaving costs at most the number of
/// sessions.
#[derive(Debug)]
pub(super) struct Queue {
    order: Order,
    retries: Entries,
    sessions: HashMap<Arc<str>, Lanes>,
    /// Sessions with a waiting request, in the order of their turns.
    turns: VecDeque<Arc<str>>,
    len: usize,
    preparing: usize,
    ready: usize,
}

type Entries = BTreeMap<Position, Entry>;

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) since: Instant,
    pub(super) stage: Stage,
    stage_since: Instant,
    waker: Option<Waker>,
}

#[derive(Debug, Default)]
struct Lanes {
    own: Entries,
    children: Entries,
    /// How many of them prepare or are ready.
    prepared: usize,
}

/// Iterates over entries in the order in which they leave.
struct InOrder<'a> {
    retries: EntryIter<'a>,
    sessions: VecDeque<SessionIter<'a>>,
}

struct SessionIter<'a> {
    turn: &'a Arc<str>,
    own: EntryIter<'a>,
    children: EntryIter<'a>,
}

type EntryIter<'a> = btree_map::Iter<'a, Position, Entry>;

/// An entry and where it is. Without a turn it is a retry.
pub(super) struct Located<'a> {
    position: &'a Position,
    pub(super) entry: &'a Entry,
    turn: Option<&'a Arc<str>>,
    is_child: bool,
}

// === impl Queue ===

impl Queue {
    pub(super) fn new(order: Order) -> Self {
        Self {
            order,
            retries: Entries::new(),
            sessions: HashMap::new(),
            turns: VecDeque::new(),
            len: 0,
            preparing: 0,
            ready: 0,
        }
    }

    /// Orders newcomers by `order`; who waits keeps its place.
    pub(super) fn set_order(&mut self, order: Order) {
        self.order = order;
    }

    /// Adds a waiter at the end of its session's lane, or before all others if it is a retry.
    pub(super) fn enter(
        &mut self,
        position: Position,
        session: Option<&Session>,
        is_retry: bool,
        now: Instant,
    ) -> Waiter {
        let lane = if is_retry {
            Lane::Retry
        } else {
            self.lane(session)
        };
        self.len += 1;
        let entry = Entry {
            since: now,
            stage: Stage::Queued,
            stage_since: now,
            waker: None,
        };
        match &lane {
            Lane::Retry => {
                self.retries.insert(position, entry);
            }
            Lane::Own(turn) | Lane::Child(turn) => {
                let lanes = self.sessions.entry(Arc::clone(turn)).or_default();
                if lanes.is_empty() {
                    self.turns.push_back(Arc::clone(turn));
                }
                lanes.of_mut(&lane).insert(position, entry);
            }
        }
        Waiter { position, lane }
    }

    /// Removes a waiter that has been served; its session's next turn comes after the others'.
    pub(super) fn serve(&mut self, waiter: &Waiter) {
        if let Lane::Own(turn) | Lane::Child(turn) = &waiter.lane
            && let Some(at) = self.turns.iter().position(|waiting| waiting == turn)
            && let Some(served) = self.turns.remove(at)
        {
            self.turns.push_back(served);
        }
        self.leave(waiter);
    }

    /// Removes a waiter that gave up.
    pub(super) fn leave(&mut self, waiter: &Waiter) {
        if let Some(entry) = self.entry(waiter) {
            self.recount(waiter, entry.stage, Stage::Queued);
        }
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
        match self.entry_mut(waiter).map(|entry| &mut entry.waker) {
            Some(Some(stored)) if stored.will_wake(waker) => {}
            Some(slot) => *slot = Some(waker.clone()),
            None => {}
        }
    }

    pub(super) fn entry(&self, waiter: &Waiter) -> Option<&Entry> {
        let entries = match &waiter.lane {
            Lane::Retry => &self.retries,
            Lane::Own(turn) | Lane::Child(turn) => self.sessions.get(turn)?.of(&waiter.lane),
        };
        entries.get(&waiter.position)
    }

    pub(super) fn set_stage(&mut self, waiter: &Waiter, stage: Stage, now: Instant) {
        let Some(entry) = self.entry_mut(waiter) else {
            return;
        };
        let previous = std::mem::replace(&mut entry.stage, stage);
        if previous != stage {
            entry.stage_since = now;
        }
        self.recount(waiter, previous, stage);
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// How many have been preparing since `instant` or longer.
    pub(super) fn preparing_since(&self, instant: Instant) -> usize {
        if self.preparing == 0 {
            return 0;
        }
        let prepares = |stage| matches!(stage, Stage::Invited | Stage::Preparing);
        self.in_order()
            .filter(|waiting| prepares(waiting.entry.stage))
            .take(self.preparing)
            .filter(|waiting| waiting.entry.stage_since <= instant)
            .count()
    }

    /// Whether some wait whose turn was too far away to prepare.
    pub(super) fn has_queued(&self) -> bool {
        self.preparing + self.ready < self.len
    }

    /// Whether `waiter`, which is ready, is the first that is, or may be.
    pub(super) fn is_candidate(&self, waiter: &Waiter) -> bool {
        self.candidate()
            .is_some_and(|(first, _)| *first == waiter.position)
    }

    pub(super) fn wake_candidate(&self) {
        if let Some((_, entry)) = self.candidate() {
            entry.wake();
        }
    }

    pub(super) fn wake_all(&self) {
        self.in_order().for_each(|waiting| waiting.entry.wake());
    }

    /// Lets the queued ones prepare that are among the first `most`, or before one that prepares
    /// already, and wakes them.
    pub(super) fn invite(&mut self, most: usize, now: Instant) {
        let mut prepared = self.preparing + self.ready;
        let mut invited = Vec::new();
        for (ahead, waiting) in self.in_order().enumerate() {
            if ahead >= most && prepared == 0 {
                break;
            }
            match waiting.entry.stage {
                Stage::Queued => invited.push(waiting.to_waiter()),
                Stage::Invited | Stage::Preparing | Stage::Ready => prepared -= 1,
                Stage::TooLong(_) => {}
            }
        }
        self.move_to(&invited, Stage::Invited, now);
    }

    /// Wakes the first `most`, who may have become near to their turns.
    pub(super) fn wake_first(&self, most: usize) {
        let first = self.in_order().take(most);
        first.for_each(|waiting| waiting.entry.wake());
    }

    /// Puts all back that prepare or are ready, and wakes them.
    pub(super) fn uninvite(&mut self, now: Instant) {
        if self.preparing + self.ready == 0 {
            return;
        }
        let prepared: Vec<_> = self
            .in_order()
            .filter(|waiting| {
                use Stage::{Invited, Preparing, Ready};
                matches!(waiting.entry.stage, Invited | Preparing | Ready)
            })
            .map(|waiting| waiting.to_waiter())
            .collect();
        self.move_to(&prepared, Stage::Queued, now);
    }

    /// Sets the stage of `waiters` and wakes them.
    pub(super) fn move_to(&mut self, waiters: &[Waiter], stage: Stage, now: Instant) {
        for waiter in waiters {
            self.set_stage(waiter, stage, now);
            if let Some(entry) = self.entry(waiter) {
                entry.wake();
            }
        }
    }

    /// How many waiters are served before `waiter`, if fewer than `most` are.
    pub(super) fn ahead_within(&self, waiter: &Waiter, most: usize) -> Option<usize> {
        self.in_order()
            .take(most)
            .position(|waiting| *waiting.position == waiter.position)
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
        self.in_order()
            .position(|waiting| waiting.position.sequence == sequence)
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

    /// All waiters in the order in which they are served, if all are ready.
    pub(super) fn in_order(&self) -> impl Iterator<Item = Located<'_>> {
        let sessions = self.turns.iter().filter_map(|turn| {
            let lanes = self.sessions.get(turn)?;
            Some(SessionIter {
                turn,
                own: lanes.own.iter(),
                children: lanes.children.iter(),
            })
        });
        InOrder {
            retries: self.retries.iter(),
            sessions: sessions.collect(),
        }
    }

    /// The first that is ready, or may be: of the session whose turn is first among those that have
    /// one.
    fn candidate(&self) -> Option<(&Position, &Entry)> {
        if self.ready + self.preparing == 0 {
            return None;
        }
        let retry = self.retries.iter().find(|(_, entry)| entry.may_leave());
        retry.or_else(|| {
            let sessions = self.turns.iter().filter_map(|turn| self.sessions.get(turn));
            sessions
                .filter(|lanes| lanes.prepared > 0)
                .find_map(|lanes| lanes.iter().find(|(_, entry)| entry.may_leave()))
        })
    }

    fn recount(&mut self, waiter: &Waiter, previous: Stage, now: Stage) {
        let count = |stage| {
            (
                usize::from(matches!(stage, Stage::Invited | Stage::Preparing)),
                usize::from(stage == Stage::Ready),
            )
        };
        let (before, after) = (count(previous), count(now));
        self.preparing = self.preparing + after.0 - before.0;
        self.ready = self.ready + after.1 - before.1;
        if let Lane::Own(turn) | Lane::Child(turn) = &waiter.lane
            && let Some(lanes) = self.sessions.get_mut(turn)
        {
            lanes.prepared = lanes.prepared + after.0 + after.1 - before.0 - before.1;
        }
    }

    fn entry_mut(&mut self, waiter: &Waiter) -> Option<&mut Entry> {
        let entries = match &waiter.lane {
            Lane::Retry => &mut self.retries,
            Lane::Own(turn) | Lane::Child(turn) => {
                self.sessions.get_mut(turn)?.of_mut(&waiter.lane)
            }
        };
        entries.get_mut(&waiter.position)
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

// === impl InOrder ===

impl<'a> Iterator for InOrder<'a> {
    type Item = Located<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some((position, entry)) = self.retries.next() {
            return Some(Located {
                position,
                entry,
                turn: None,
                is_child: false,
            });
        }
        loop {
            let mut session = self.sessions.pop_front()?;
            if let Some(next) = session.next() {
                self.sessions.push_back(session);
                return Some(next);
            }
        }
    }
}

// === impl SessionIter ===

impl<'a> Iterator for SessionIter<'a> {
    type Item = Located<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let (next, is_child) = match self.own.next() {
            Some(own) => (own, false),
            None => (self.children.next()?, true),
        };
        Some(Located {
            position: next.0,
            entry: next.1,
            turn: Some(self.turn),
            is_child,
        })
    }
}

// === impl Located ===

impl Located<'_> {
    /// Whether the request has been here before.
    pub(super) fn is_retry(&self) -> bool {
        self.turn.is_none()
    }

    pub(super) fn to_waiter(&self) -> Waiter {
        let lane = match self.turn.cloned() {
            None => Lane::Retry,
            Some(turn) if self.is_child => Lane::Child(turn),
            Some(turn) => Lane::Own(turn),
        };
        Waiter {
            position: *self.position,
            lane,
        }
    }
}

// === impl Entry ===

impl Entry {
    fn may_leave(&self) -> bool {
        matches!(self.stage, Stage::Invited | Stage::Ready)
    }

    /// When it has been in its stage for `time`, if that is after `now`.
    pub(super) fn in_stage_for(&self, time: Duration, now: Instant) -> Option<Instant> {
        Some(self.stage_since + time).filter(|instant| *instant > now)
    }

    fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

// === impl Lanes ===

impl Lanes {
    fn iter(&self) -> impl Iterator<Item = (&Position, &Entry)> {
        self.own.iter().chain(&self.children)
    }

    fn of(&self, lane: &Lane) -> &Entries {
        match lane {
            Lane::Child(_) => &self.children,
            _ => &self.own,
        }
    }

    fn of_mut(&mut self, lane: &Lane) -> &mut Entries {
        match lane {
            Lane::Child(_) => &mut self.children,
            _ => &mut self.own,
        }
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
                .find(|(_, waiter)| queue.ahead_within(waiter, 1) == Some(0))
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
                let waiter = queue.enter(position, session.as_ref(), *is_retry, Instant::now());
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
        assert_eq!(queue.ahead_within(&waiters[1].1, 1), Some(0));
        queue.leave(&waiters[1].1);
        assert!(queue.sessions.is_empty() && queue.turns.is_empty());
    }
}
