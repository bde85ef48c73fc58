//! Whether sessions that wait at the same time are served at the same rate.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use super::{
    log::{Fate, turn},
    pattern::Request,
};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Comes,
    Leaves,
}

/// A session among others that wait, too.
#[derive(Default)]
struct Contest {
    waiting: usize,
    time: Duration,
    served: usize,
}

/// This many requests of each session, on average.
const OFTEN: usize = 5;

/// Jain's index of the rates of all sessions, over the time in which at least two of them wait: a
/// session's rate is the number of its requests that leave, divided by the time that it waits. Where
/// that happens too seldom, rates are chance and nothing is said.
///
/// The index is from R. Jain, D. Chiu, W. Hawe, "A Quantitative Measure of Fairness and
/// Discrimination for Resource Allocation in Shared Computer Systems" (DEC-TR-301, 1984).
pub(super) fn fairness(fates: &HashMap<usize, Fate>, requests: &[Request]) -> Option<f64> {
    let mut steps: Vec<(Duration, Step, &str)> = Vec::new();
    for (index, fate) in fates {
        if let Some(admitted) = fate.admitted.filter(|admitted| *admitted > fate.arrived) {
            let session = turn(&requests[*index]);
            steps.push((fate.arrived, Step::Comes, session));
            steps.push((admitted, Step::Leaves, session));
        }
    }
    steps.sort_unstable();
    let mut sessions: BTreeMap<&str, Contest> = BTreeMap::new();
    let mut before = Duration::ZERO;
    for (at, step, session) in steps {
        let contested = sessions.values().filter(|one| one.waiting > 0).count() > 1;
        if contested {
            for one in sessions.values_mut().filter(|one| one.waiting > 0) {
                one.time += at - before;
            }
        }
        before = at;
        let one = sessions.entry(session).or_default();
        match step {
            Step::Comes => one.waiting += 1,
            Step::Leaves => {
                one.waiting -= 1;
                one.served += usize::from(contested);
            }
        }
    }
    let contests: Vec<_> = sessions
        .into_values()
        .filter(|one| !one.time.is_zero())
        .collect();
    let served: usize = contests.iter().map(|one| one.served).sum();
    if contests.len() < 2 || served < OFTEN * contests.len() {
        return None;
    }
    let rates = || contests.iter().map(Contest::rate);
    let sum: f64 = rates().sum();
    let squares: f64 = rates().map(|rate| rate * rate).sum();
    Some(sum * sum / (contests.len() as f64 * squares))
}

// === impl Contest ===

impl Contest {
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
        let mut fates = HashMap::new();
        for (session, admitted) in sessions {
            for at in *admitted {
                fates.insert(
                    requests.len(),
                    Fate {
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
        fairness(&fates, &requests)
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
