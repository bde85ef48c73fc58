//! What the fake upstream admits: so many in any window, so many at once.

use std::{collections::VecDeque, str::FromStr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::wording::Reason;

/// What is admitted; nothing here means everything.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// All of them hold at once.
    pub windows: Vec<Window>,
    /// Chats whose answer has not ended.
    pub concurrency: Option<usize>,
}

/// At most this many admitted chats in *any* stretch of time this long: exact and sliding, unlike
/// most providers' counters, so that a client which passes here passes there. A day is 24 hours.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Window {
    /// How many.
    pub requests: usize,
    /// In how long.
    pub per: Duration,
}

/// A text that is no window.
#[derive(Clone, Debug, thiserror::Error)]
#[error("expected REQUESTS/TIME such as 60/1m, 1/1s or 1000/1day")]
pub struct BadWindow;

/// The chats that count.
#[derive(Debug)]
pub(super) struct Gate {
    limits: Limits,
    /// When the latest were admitted, oldest first; as many as the largest window asks about.
    admitted: VecDeque<Instant>,
    in_flight: usize,
}

/// A place among the concurrent chats, given back when dropped.
#[derive(Debug)]
pub(super) struct Slot(Arc<Mutex<Gate>>);

/// Why a chat was not admitted.
#[derive(Debug, PartialEq)]
pub(super) struct Refused {
    pub(super) limit: usize,
    pub(super) reason: Reason,
    /// When it would be, if time is all it takes.
    pub(super) wait: Option<Duration>,
}

// === impl Window ===

impl Window {
    /// What a provider would call this limit.
    fn reason(self) -> Reason {
        const MINUTE: Duration = Duration::from_secs(60);
        if self.per <= Duration::from_secs(1) {
            Reason::Burst
        } else if self.per < 60 * MINUTE {
            Reason::Rate
        } else if self.per < 24 * 60 * MINUTE {
            Reason::Hours
        } else if self.per < 7 * 24 * 60 * MINUTE {
            Reason::Day
        } else if self.per < 28 * 24 * 60 * MINUTE {
            Reason::Week
        } else {
            Reason::Month
        }
    }
}

impl FromStr for Window {
    type Err = BadWindow;

    fn from_str(text: &str) -> Result<Self, BadWindow> {
        let (requests, per) = text.split_once('/').ok_or(BadWindow)?;
        let window = Self {
            requests: requests.parse().map_err(|_| BadWindow)?,
            per: humantime::parse_duration(per).map_err(|_| BadWindow)?,
        };
        (window.requests > 0 && !window.per.is_zero())
            .then_some(window)
            .ok_or(BadWindow)
    }
}

// === impl Gate ===

impl Gate {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            admitted: VecDeque::new(),
            in_flight: 0,
        }
    }

    /// Forgets what the windows counted; chats under way still count as concurrent.
    pub(super) fn clear(&mut self) {
        self.admitted.clear();
    }

    /// Counts a chat, unless a limit forbids it. What is refused is not counted.
    pub(super) fn admit(gate: &Arc<Mutex<Self>>, now: Instant) -> Result<Slot, Refused> {
        let mut state = gate.lock();
        state.check(now)?;
        state.admitted.push_back(now);
        let kept = state
            .limits
            .windows
            .iter()
            .map(|window| window.requests)
            .max();
        if state.admitted.len() > kept.unwrap_or(0) {
            state.admitted.pop_front();
        }
        state.in_flight += 1;
        Ok(Slot(Arc::clone(gate)))
    }

    fn check(&self, now: Instant) -> Result<(), Refused> {
        let full = self
            .limits
            .concurrency
            .filter(|limit| self.in_flight >= *limit);
        if let Some(limit) = full {
            return Err(Refused {
                limit,
                reason: Reason::Concurrency,
                wait: None,
            });
        }
        // The longest wait of all windows: an earlier one would be a lie.
        let refusals = self.limits.windows.iter().filter_map(|window| {
            let index = self.admitted.len().checked_sub(window.requests)?;
            let wait = window
                .per
                .checked_sub(now.saturating_duration_since(*self.admitted.get(index)?))?;
            (!wait.is_zero()).then_some((wait, window))
        });
        refusals
            .max_by_key(|(wait, _)| *wait)
            .map_or(Ok(()), |(wait, window)| {
                Err(Refused {
                    limit: window.requests,
                    reason: window.reason(),
                    wait: Some(wait),
                })
            })
    }
}

// === impl Slot ===

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.lock().in_flight -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(windows: &[&str], concurrency: Option<usize>) -> Arc<Mutex<Gate>> {
        let windows = windows.iter().map(|text| text.parse().unwrap()).collect();
        Arc::new(Mutex::new(Gate::new(Limits {
            windows,
            concurrency,
        })))
    }

    #[test]
    fn admits_n_in_any_window_and_not_one_more() {
        let (gate, start) = (gate(&["3/1m"], None), Instant::now());
        let at = |seconds| Gate::admit(&gate, start + Duration::from_secs(seconds));
        for seconds in [0, 30, 59] {
            at(seconds).unwrap();
        }
        let refused = at(59).unwrap_err();
        assert_eq!(refused.wait, Some(Duration::from_secs(1)));
        at(60).unwrap();
        assert_eq!(at(61).unwrap_err().wait, Some(Duration::from_secs(29)));
    }

    #[test]
    fn names_the_window_that_lasts_longest() {
        let (gate, now) = (gate(&["1/1s", "1/1day"], None), Instant::now());
        Gate::admit(&gate, now).unwrap();
        assert_eq!(Gate::admit(&gate, now).unwrap_err().reason, Reason::Day);
    }

    #[test]
    fn gives_a_concurrent_place_back_when_the_slot_goes() {
        let (gate, now) = (gate(&[], Some(1)), Instant::now());
        let slot = Gate::admit(&gate, now).unwrap();
        assert_eq!(
            Gate::admit(&gate, now).unwrap_err().reason,
            Reason::Concurrency
        );
        drop(slot);
        Gate::admit(&gate, now).unwrap();
    }
}
