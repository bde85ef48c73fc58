//! Limits on chats: so many in any window, so many at once.

use std::{collections::VecDeque, str::FromStr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::wording::Reason;

/// The limits on chats; by default there are none.
#[derive(Clone, Debug, Default)]
pub struct ChatLimits {
    /// All of these apply.
    pub windows: Vec<WindowLimit>,
    /// The most chats whose response has not ended.
    pub concurrency: Option<usize>,
}

/// At most this many admitted chats in *any* stretch of time this long: exact and sliding.
/// Most providers count less strictly, so a client that passes here passes there. A day is 24 hours.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WindowLimit {
    /// How many.
    pub requests: usize,
    /// In how long.
    pub per: Duration,
}

/// The text is not a window.
#[derive(Clone, Debug, thiserror::Error)]
#[error("expected REQUESTS/TIME such as 60/1m, 1/1s or 1000/1day")]
pub struct BadWindow;

/// Counts chats and admits them within the limits.
#[derive(Debug)]
pub(super) struct ChatLimiter {
    limits: ChatLimits,
    /// When the latest chats were admitted, oldest first; as many as the largest window needs.
    admitted: VecDeque<Instant>,
    in_flight: usize,
}

/// Counts a concurrent chat until it is dropped.
#[derive(Debug)]
pub(super) struct ConcurrencyPermit(Arc<Mutex<ChatLimiter>>);

/// Why a chat was not admitted.
#[derive(Debug, PartialEq)]
pub(super) struct LimitReached {
    pub(super) limit: usize,
    pub(super) reason: Reason,
    /// How long until the limit lifts; `None` if it depends on other chats.
    pub(super) wait: Option<Duration>,
}

// === impl WindowLimit ===

impl WindowLimit {
    /// The limit that a provider would name.
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

impl FromStr for WindowLimit {
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

// === impl ChatLimiter ===

impl ChatLimiter {
    pub(super) fn new(limits: ChatLimits) -> Self {
        Self {
            limits,
            admitted: VecDeque::new(),
            in_flight: 0,
        }
    }

    /// Clears the windows; chats in flight still count as concurrent.
    pub(super) fn clear(&mut self) {
        self.admitted.clear();
    }

    /// Admits and counts a chat, unless a limit is reached. Refused chats are not counted.
    pub(super) fn admit(
        limiter: &Arc<Mutex<Self>>,
        now: Instant,
    ) -> Result<ConcurrencyPermit, LimitReached> {
        let mut state = limiter.lock();
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
        Ok(ConcurrencyPermit(Arc::clone(limiter)))
    }

    fn check(&self, now: Instant) -> Result<(), LimitReached> {
        let full = self
            .limits
            .concurrency
            .filter(|limit| self.in_flight >= *limit);
        if let Some(limit) = full {
            return Err(LimitReached {
                limit,
                reason: Reason::Concurrency,
                wait: None,
            });
        }
        // The longest wait of all windows: after a shorter one the chat would be refused again.
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
                Err(LimitReached {
                    limit: window.requests,
                    reason: window.reason(),
                    wait: Some(wait),
                })
            })
    }
}

// === impl ConcurrencyPermit ===

impl Drop for ConcurrencyPermit {
    fn drop(&mut self) {
        self.0.lock().in_flight -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(windows: &[&str], concurrency: Option<usize>) -> Arc<Mutex<ChatLimiter>> {
        let windows = windows.iter().map(|text| text.parse().unwrap()).collect();
        Arc::new(Mutex::new(ChatLimiter::new(ChatLimits {
            windows,
            concurrency,
        })))
    }

    #[test]
    fn admits_n_in_any_window_and_not_one_more() {
        let (limiter, start) = (limiter(&["3/1m"], None), Instant::now());
        let at = |seconds| ChatLimiter::admit(&limiter, start + Duration::from_secs(seconds));
        for seconds in [0, 30, 59] {
            at(seconds).unwrap();
        }
        let reached = at(59).unwrap_err();
        assert_eq!(reached.wait, Some(Duration::from_secs(1)));
        at(60).unwrap();
        assert_eq!(at(61).unwrap_err().wait, Some(Duration::from_secs(29)));
    }

    #[test]
    fn names_the_window_that_lasts_longest() {
        let (limiter, now) = (limiter(&["1/1s", "1/1day"], None), Instant::now());
        ChatLimiter::admit(&limiter, now).unwrap();
        assert_eq!(
            ChatLimiter::admit(&limiter, now).unwrap_err().reason,
            Reason::Day
        );
    }

    #[test]
    fn gives_a_concurrent_place_back_when_the_permit_goes() {
        let (limiter, now) = (limiter(&[], Some(1)), Instant::now());
        let permit = ChatLimiter::admit(&limiter, now).unwrap();
        assert_eq!(
            ChatLimiter::admit(&limiter, now).unwrap_err().reason,
            Reason::Concurrency
        );
        drop(permit);
        ChatLimiter::admit(&limiter, now).unwrap();
    }
}
