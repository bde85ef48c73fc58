//! When clients send requests.

use std::{path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    opencode,
    trace::{self, TraceError},
};
use crate::config::suggestion;

/// Arrivals of requests.
#[derive(Clone, Debug, PartialEq)]
pub enum Pattern {
    /// So many requests at once.
    Burst(usize),
    /// OpenCode: a window with so many sub-agents, and other windows beside it.
    OpenCode(usize),
    /// Independent arrivals, so many a second on average.
    Poisson(f64),
    /// The same gap after each, so many a second.
    Steady(f64),
    /// Recorded arrivals.
    Trace(PathBuf),
}

/// How much of a pattern to run.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// The most requests.
    pub requests: Option<usize>,
    /// Only requests that arrive within this time, where that does not depend on responses.
    pub duration: Option<Duration>,
    /// Sessions that send requests by turns, if the pattern has none of its own.
    pub sessions: usize,
}

/// One request that a client makes.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Indices of the requests whose responses the client needs first.
    pub after: Vec<usize>,
    /// Delay after those responses, or after the start of the run.
    pub pause: Duration,
    /// The session of the request.
    pub session: Arc<str>,
    /// The parent session, if that is a sub-agent's.
    pub parent: Option<Arc<str>>,
}

/// The text is not a pattern.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadPattern(String);

const KINDS: [&str; 5] = ["burst", "opencode", "poisson", "steady", "trace"];

/// Any larger number is taken for a mistake.
const MOST: usize = 100_000;

/// Duration if neither requests nor duration are given.
const DURATION: Duration = Duration::from_secs(10 * 60);

// === impl Pattern ===

impl Pattern {
    /// The requests of the pattern.
    ///
    /// # Errors
    ///
    /// [`TraceError`] if a recording cannot be read.
    pub fn requests(&self, extent: &Extent, seed: u64) -> Result<Vec<Request>, TraceError> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut requests = match self {
            Self::Burst(count) => spread((0..*count).map(|_| Duration::ZERO), extent),
            Self::OpenCode(agents) => opencode::prompts(*agents, extent.requests, &mut rng),
            Self::Poisson(rate) => {
                let mut at = Duration::ZERO;
                // The inverse of the exponential distribution; 1 - x is never zero.
                let arrivals = std::iter::from_fn(move || {
                    at += Duration::from_secs_f64(-(1.0 - rng.random::<f64>()).ln() / rate);
                    Some(at)
                });
                spread(within(arrivals, extent), extent)
            }
            Self::Steady(rate) => {
                let gap = Duration::from_secs_f64(1.0 / rate);
                let arrivals = (0..).map(|number| gap * number);
                spread(within(arrivals, extent), extent)
            }
            Self::Trace(path) => {
                let mut recorded = trace::read(path)?;
                let end = extent.duration.unwrap_or(Duration::MAX);
                recorded.retain(|request| request.pause < end);
                recorded
            }
        };
        requests.truncate(extent.requests.unwrap_or(MOST));
        Ok(requests)
    }

    /// Requests so far apart that none affects another.
    pub(super) fn lone() -> Vec<Request> {
        /// Enough for a mean.
        const COUNT: u32 = 20;
        const APART: Duration = Duration::from_secs(300);
        let lone = |number| Request {
            after: Vec::new(),
            pause: APART * number,
            session: "s1".into(),
            parent: None,
        };
        (0..COUNT).map(lone).collect()
    }
}

impl FromStr for Pattern {
    type Err = BadPattern;

    fn from_str(text: &str) -> Result<Self, BadPattern> {
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        let expected = |what: &str| BadPattern(format!("expected {kind}:{what}"));
        match kind {
            "burst" => count(rest)
                .map(Self::Burst)
                .ok_or_else(|| expected("NUMBER, such as burst:50, up to 100000")),
            "opencode" => rest
                .strip_suffix("-agents")
                .and_then(count)
                .filter(|agents| *agents <= 100)
                .map(Self::OpenCode)
                .ok_or_else(|| expected("NUMBER-agents, such as opencode:8-agents, up to 100")),
            "poisson" => rate(rest)
                .map(Self::Poisson)
                .ok_or_else(|| expected("NUMBER/TIME, such as poisson:28/min")),
            "steady" => rate(rest)
                .map(Self::Steady)
                .ok_or_else(|| expected("NUMBER/TIME, such as steady:1/s")),
            "trace" if !rest.is_empty() => Ok(Self::Trace(rest.into())),
            "trace" => Err(expected(
                "FILE, as `pacegate serve --record FILE` writes it",
            )),
            _ => Err(BadPattern(format!(
                "no such pattern; {}",
                suggestion(kind, &KINDS)
            ))),
        }
    }
}

fn count(text: &str) -> Option<usize> {
    text.parse().ok().filter(|count| (1..=MOST).contains(count))
}

/// `28/min`, in requests a second.
fn rate(text: &str) -> Option<f64> {
    let (number, unit) = text.split_once('/')?;
    let seconds = match unit {
        "s" | "sec" => 1.0,
        "m" | "min" => 60.0,
        "h" | "hour" => 3600.0,
        "day" => 24.0 * 3600.0,
        _ => return None,
    };
    let rate = number.parse::<f64>().ok()? / seconds;
    // From one in four months to a million a second.
    (1e-7..=1e6).contains(&rate).then_some(rate)
}

/// The part of `arrivals` within `extent`.
fn within(
    arrivals: impl Iterator<Item = Duration>,
    extent: &Extent,
) -> impl Iterator<Item = Duration> {
    let end = match (extent.duration, extent.requests) {
        (Some(end), _) => end,
        (None, Some(_)) => Duration::MAX,
        (None, None) => DURATION,
    };
    arrivals
        .take(extent.requests.unwrap_or(MOST))
        .take_while(move |at| *at < end)
}

/// Assigns `arrivals` to the sessions by turns.
fn spread(arrivals: impl Iterator<Item = Duration>, extent: &Extent) -> Vec<Request> {
    let sessions: Vec<Arc<str>> = (1..=extent.sessions)
        .map(|number| format!("s{number}").into())
        .collect();
    arrivals
        .zip(sessions.iter().cycle())
        .map(|(pause, session)| Request {
            after: Vec::new(),
            pause,
            session: Arc::clone(session),
            parent: None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(pattern: &str, requests: Option<usize>, minutes: Option<u64>) -> Vec<Request> {
        let extent = Extent {
            requests,
            duration: minutes.map(|minutes| Duration::from_secs(60 * minutes)),
            sessions: 3,
        };
        let pattern: Pattern = pattern.parse().unwrap();
        pattern.requests(&extent, 1).unwrap()
    }

    #[test]
    fn arrivals_keep_to_their_rate() {
        assert_eq!(requests("steady:2/s", None, Some(1)).len(), 120);
        let poisson = requests("poisson:28/min", None, Some(100)).len();
        assert!((2600..3000).contains(&poisson), "{poisson}");
    }

    #[test]
    fn whichever_bound_is_reached_first_ends_a_pattern() {
        assert_eq!(requests("steady:1/s", Some(10), Some(1)).len(), 10);
        assert_eq!(requests("steady:1/s", Some(100), Some(1)).len(), 60);
        assert_eq!(requests("burst:50", Some(10), None).len(), 10);
        assert_eq!(requests("steady:1/s", None, None).len(), 600);
    }

    #[test]
    fn sessions_take_turns_to_ask() {
        let burst = requests("burst:4", None, None);
        let sessions: Vec<_> = burst.iter().map(|request| &*request.session).collect();
        assert_eq!(sessions, ["s1", "s2", "s3", "s1"]);
    }
}
