//! Who comes, and what becomes of it.

use std::time::Duration;

use rand::{RngExt, rngs::StdRng};

use super::pick;

/// One request and what becomes of each of its attempts.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) arrives: Duration,
    pub(crate) session: usize,
    pub(crate) is_child: bool,
    /// Leaves this long after it has come, wherever it is then.
    pub(crate) gives_up: Option<Duration>,
    pub(crate) attempts: Vec<Attempt>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    /// From dispatch to the head of the answer.
    pub(crate) latency: Duration,
    pub(crate) answer: Answer,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    /// Reached the upstream, and then the connection broke.
    Broken,
    /// "Used up" for so long.
    Exhausted(Duration),
    /// "Slow down" for so long.
    Refused(Duration),
    /// Taken, and streamed for so long.
    Taken(Duration),
    /// There was no connection.
    Unreached,
}

// === impl Request ===

impl Request {
    /// With nights between them if it is `long`.
    pub(super) fn draw_all(rng: &mut StdRng, long: bool) -> Vec<Self> {
        let sessions = rng.random_range(1..7);
        let giving_up = rng.random_range(0.0..0.4);
        let refusing = rng.random_range(0.0..0.15);
        let spread = *pick(rng, &[0, 0, 300, 2000, 5000]);
        let count = rng.random_range(1..=160);
        // So many hours, about so often.
        let night = *pick(rng, &[2, 30, 30, 200]);
        let nights = if long { rng.random_range(0..10) } else { 0 };
        let nightly = (f64::from(nights) / f64::from(count)).min(0.5);
        let mut at = 0;
        (0..count)
            .map(|_| {
                // All at once, one by one, or in bursts.
                if spread > 0 && rng.random_bool(0.5) {
                    at += rng.random_range(0..spread);
                }
                if rng.random_bool(nightly) {
                    at += rng.random_range(0..night * 3_600_000);
                }
                Self {
                    arrives: Duration::from_millis(at),
                    session: rng.random_range(0..sessions),
                    is_child: rng.random_bool(0.3),
                    gives_up: rng
                        .random_bool(giving_up)
                        .then(|| Duration::from_millis(rng.random_range(0..120_000))),
                    attempts: Attempt::draw_all(rng, refusing),
                }
            })
            .collect()
    }
}

// === impl Attempt ===

impl Attempt {
    /// Until one is answered, or there have been enough.
    fn draw_all(rng: &mut StdRng, refusing: f64) -> Vec<Self> {
        let mut attempts = Vec::new();
        while attempts.len() < 3 {
            let attempt = Self::draw(rng, refusing);
            attempts.push(attempt);
            if matches!(attempt.answer, Answer::Exhausted(_) | Answer::Taken(_)) {
                break;
            }
        }
        attempts
    }

    fn draw(rng: &mut StdRng, refusing: f64) -> Self {
        let answer = if rng.random_bool(refusing) {
            Answer::Refused(Duration::from_secs(rng.random_range(1..=90)))
        } else {
            match rng.random_range(0..200) {
                0..=1 => Answer::Broken,
                2 => Answer::Exhausted(Duration::from_secs(rng.random_range(60..7200))),
                3..=7 => Answer::Unreached,
                _ => {
                    let most = if rng.random_bool(0.1) { 120_000 } else { 8000 };
                    Answer::Taken(Duration::from_millis(rng.random_range(0..most)))
                }
            }
        };
        // Some upstreams think for long, and some connections take their time not to be made.
        let most = match answer {
            Answer::Unreached if rng.random_bool(0.3) => 7_200_000,
            _ if rng.random_bool(0.1) => 60_000,
            _ => 3000,
        };
        Self {
            latency: Duration::from_millis(rng.random_range(1..most)),
            answer,
        }
    }
}
