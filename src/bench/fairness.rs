//! Fairness: whether sessions that wait at the same time are served at the same rate.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use super::{
    log::{RequestOutcome, turn},
    pattern::Request,
};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum QueueEvent {
    Arrives,
    Leaves,
}

/// How fast a session is served while others wait, too.
#[derive(Default)]
struct SessionRate {
    waiting: usize,
    time: Duration,
    served: usize,
}

/// The least number of requests of each session, on average.
const MIN_SERVED: usize = 5;

/// Jain's index of the rates of all sessions, over the time in which at least two of them wait: a
/// session's rate is the number of its requests that leave, divided by the time that it waits. With
/// too few requests the rates are random, and the result is `None`.
///
/// The index is from R. Jain, D. Chiu, W. Hawe, "A Quantitative Measure of Fairness and
/// Discrimination for Resource Allocation in Shared Computer Systems" (DEC-TR-301, 1984).
pub(super) fn fairness(
    outcomes: &HashMap<usize, RequestOutcome>,
    requests: &[Request],
) -> Option<f64> {
    let mut events: Vec<(Duration, QueueEvent, &str)> = Vec::new();
    for (index, outcome) in outcomes {
        if let Some(admitted) = outcome
            .admitted
            .filter(|admitted| *admitted > outcome.arrived)
        {
            let session = turn(&requests[*index]);
            events.push((outcome.arrived, QueueEvent::Arrives, session));
            events.push((admitted, QueueEvent::Leaves, session));
        }
    }
    events.sort_unstable();
    let mut sessions: BTreeMap<&str, SessionRate> = BTreeMap::new();
    let mut before = Duration::ZERO;
    for (at, event, session) in events {
        let contested = sessions.values().filter(|one| one.waiting > 0).count() > 1;
        if contested {
            for one in sessions.values_mut().filter(|one| one.waiting > 0) {
                one.time += at - before;
            }
        }
        before = at;
        let one = sessions.entry(session).or_default();
        match event {
            QueueEvent::Arrives => one.waiting += 1,
            QueueEvent::Leaves => {
                one.waiting -= 1;
                one.served += usize::from(contested);
            }
        }
    }
    let sessions: Vec<_> = sessions
        .into_values()
        .filter(|one| !one.time.is_zero())
        .collect();
    let served: usize = sessions.iter().map(|one| one.served).sum();
    if sessions.len() < 2 || served < MIN_SERVED * sessions.len() {
        return None;
    }
    let rates = || sessions.iter().map(SessionRate::rate);
    let sum: f64 = rates().sum();
    let squares: f64 = rates().map(|rate| rate * rate).sum();
    Some(sum * sum / (sessions.len() as f64 * squares))
}

// === impl SessionRate ===

impl SessionRate {
    fn rate(&self) -> f64 {
        self.served as f64 / self.time.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fairness of requests of `session` that arrive at once and leave at `admitted`.
    fn of(sessions: &[(&str, &[u64])]) -> Option<f64> {
        let mut requests = Vec::new();
        let mut outcomes = HashMap::new();
        for (session, admitted) in sessions {
            for at in *admitted {
                outcomes.insert(
                    requests.len(),
                    RequestOutcome {
                        arrived: Duration::ZERO,
                        admitted: Some(Duration::from_secs(*at)),
                    },
                );
                requests.push(Request {
                    after: Vec::new(),
                    pause: Duration::ZERO,
                    session: (*session).into(),
                    parent: None,
                });
            }
        }
        fairness(&outcomes, &requests)
    }

    #[test]
    fn turns_are_fair_and_a_queue_that_starves_a_session_is_not() {
        let turns = of(&[
            ("a", &[1, 3, 5, 7, 9, 11]),
            ("b", &[2, 4, 6, 8, 10, 12, 13, 14]),
        ]);
        assert!(turns.unwrap() > 0.99, "{turns:?}");
        let starved = of(&[("a", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]), ("b", &[100])]);
        assert!(starved.unwrap() < 0.6, "{starved:?}");
    }

    #[test]
    fn nothing_is_said_of_fairness_where_sessions_seldom_meet() {
        assert_eq!(of(&[("a", &[1, 2, 3, 4, 5, 6, 7])]), None);
        assert_eq!(of(&[("a", &[0, 0]), ("b", &[0, 0])]), None);
        assert_eq!(of(&[("a", &[1, 3]), ("b", &[2])]), None);
    }
}
