//! The figures of a run.

use std::{collections::HashMap, time::Duration};

use serde::Serialize;

use super::{fairness::fairness, limit::Limit, log::RunEvents, pattern::Request};

/// The figures of one run. Times are in milliseconds; a figure that is not known is absent.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Requests of the clients.
    pub requests: usize,
    /// Requests that succeeded in the end.
    pub served: usize,
    /// Requests that their client gave up.
    pub given_up: usize,
    /// Requests dispatched to the upstream, counted by the policy.
    pub dispatches: u64,
    /// Requests received, counted by the upstream.
    pub upstream_counted: usize,
    /// Responses 429 of the upstream.
    pub answers_429: usize,
    /// Requests that the policy refused.
    pub turned_away: usize,
    /// From one dispatch to the next.
    pub gap_ms: Option<Gaps>,
    /// Length of the windows, in s: that of the shortest limit.
    pub window_s: f64,
    /// The most dispatches in any window.
    pub most_in_window: usize,
    /// The median of the dispatches in all whole minutes of the run.
    pub per_minute: usize,
    /// The same for the window, as a fraction of what the limit admits.
    pub share_of_quota: Option<f64>,
    /// From the client's first attempt to the dispatch that was admitted.
    pub wait_ms: Option<Waits>,
    /// The mean wait of a request when no other waits.
    pub lone_wait_ms: Option<f64>,
    /// Jain's index of the rates at which sessions were served while they and others waited: from 1
    /// divided by their number (one gets everything) to 1 (all the same).
    pub fairness: Option<f64>,
    /// The fraction of pairs of requests of one session in which the later one left first.
    pub out_of_order: f64,
    /// From the first attempt of a client to the last dispatch, in seconds.
    pub lasted_s: f64,
}

/// Gaps between dispatches, in ms.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Gaps {
    pub min: f64,
    pub median: f64,
    pub p99: f64,
}

/// Waits of requests, in ms.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Waits {
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
}

const MINUTE: Duration = Duration::from_secs(60);

// === impl Figures ===

impl Figures {
    /// `dispatches` is the policy's count, `lone` a run of requests without others.
    pub(super) fn of(
        log: &RunEvents,
        requests: &[Request],
        limits: &[Limit],
        dispatches: u64,
        lone: &RunEvents,
    ) -> Self {
        let times: Vec<_> = log.attempts.iter().map(|attempt| attempt.at).collect();
        let shortest = limits.iter().min_by_key(|limit| limit.per);
        let window = shortest.map_or(MINUTE, |limit| limit.per);
        let waits = log.waits();
        let lone = lone.waits();
        let outcomes = log.outcomes();
        let mut gaps: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        gaps.sort_unstable();
        let begun = log.sent.first().map_or(Duration::ZERO, |sent| sent.at);
        Self {
            requests: requests.len(),
            served: waits.len(),
            given_up: log.given_up,
            dispatches,
            upstream_counted: log.attempts.len(),
            answers_429: log
                .attempts
                .iter()
                .filter(|attempt| !attempt.admitted)
                .count(),
            turned_away: log.turned_away,
            gap_ms: (!gaps.is_empty()).then(|| Gaps {
                min: millis(gaps[0]),
                median: millis(quantile(&gaps, 0.5)),
                p99: millis(quantile(&gaps, 0.99)),
            }),
            window_s: window.as_secs_f64(),
            most_in_window: in_windows(&times, window).into_iter().max().unwrap_or(0),
            per_minute: typical(&times, MINUTE),
            share_of_quota: shortest.map(|limit| {
                rounded(typical(&times, limit.per) as f64 / limit.requests.get() as f64)
            }),
            wait_ms: (!waits.is_empty()).then(|| Waits {
                p50: millis(quantile(&waits, 0.5)),
                p95: millis(quantile(&waits, 0.95)),
                p99: millis(quantile(&waits, 0.99)),
            }),
            lone_wait_ms: u32::try_from(lone.len())
                .ok()
                .filter(|count| *count > 0)
                .map(|count| millis(lone.iter().sum::<Duration>() / count)),
            fairness: fairness(&outcomes, requests).map(rounded),
            out_of_order: rounded(out_of_order(log, requests)),
            lasted_s: times
                .last()
                .map_or(0.0, |last| rounded((*last - begun).as_secs_f64())),
        }
    }
}

fn millis(time: Duration) -> f64 {
    rounded(time.as_secs_f64() * 1000.0)
}

/// To three decimals: more would be noise.
fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

/// The quantile by nearest rank.
fn quantile(sorted: &[Duration], share: f64) -> Duration {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a length is one"
    )]
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// For each of `times`, how many are in the window that begins there.
pub(super) fn in_windows(times: &[Duration], window: Duration) -> Vec<usize> {
    let mut end = 0;
    times
        .iter()
        .enumerate()
        .map(|(begin, time)| {
            while times.get(end).is_some_and(|other| *other < *time + window) {
                end += 1;
            }
            end - begin
        })
        .collect()
}

/// The median count of all whole windows; all of `times` if the run is shorter than one.
fn typical(times: &[Duration], window: Duration) -> usize {
    let Some(last) = times.last() else {
        return 0;
    };
    let whole = times.iter().filter(|time| **time + window <= *last).count();
    let mut counts = in_windows(times, window);
    counts.truncate(whole);
    counts.sort_unstable();
    counts.get(whole / 2).copied().unwrap_or(times.len())
}

fn out_of_order(log: &RunEvents, requests: &[Request]) -> f64 {
    let mut seen = vec![false; log.sent.len()];
    let mut lines: HashMap<&str, Vec<usize>> = HashMap::new();
    for attempt in &log.attempts {
        // Only the first attempt counts: a retry has had its turn.
        if !std::mem::replace(&mut seen[attempt.request_id], true) {
            let request = &requests[log.sent[attempt.request_id].request];
            lines
                .entry(&request.session)
                .or_default()
                .push(attempt.request_id);
        }
    }
    let pairs: usize = lines
        .values()
        .map(|line| line.len() * line.len().saturating_sub(1) / 2)
        .sum();
    let inverted: usize = lines.values_mut().map(|line| inversions(line)).sum();
    inverted as f64 / pairs.max(1) as f64
}

/// Sorts, and counts the pairs that were out of order.
fn inversions(line: &mut [usize]) -> usize {
    if line.len() < 2 {
        return 0;
    }
    let (left, right) = line.split_at_mut(line.len() / 2);
    let mut count = inversions(left) + inversions(right);
    let mut merged = Vec::with_capacity(left.len() + right.len());
    let (mut first, mut second) = (left.iter().peekable(), right.iter().peekable());
    while let (Some(a), Some(b)) = (first.peek(), second.peek()) {
        if a <= b {
            merged.extend(first.next());
        } else {
            count += first.len();
            merged.extend(second.next());
        }
    }
    merged.extend(first);
    merged.extend(second);
    line.copy_from_slice(&merged);
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(times: &[u64]) -> Vec<Duration> {
        times.iter().copied().map(Duration::from_secs).collect()
    }

    #[test]
    fn a_window_holds_its_beginning_and_not_its_end() {
        let times = seconds(&[0, 1, 59, 60, 61]);
        assert_eq!(in_windows(&times, MINUTE), [3, 3, 3, 2, 1]);
        assert_eq!(typical(&times, MINUTE), 3);
        assert_eq!(typical(&seconds(&[0, 1]), MINUTE), 2, "no whole minute");
        assert_eq!(typical(&[], MINUTE), 0);
    }

    #[test]
    fn quantiles_are_of_the_nearest_rank() {
        let times = seconds(&[1, 2, 3, 4]);
        assert_eq!(quantile(&times, 0.5).as_secs(), 2);
        assert_eq!(quantile(&times, 0.99).as_secs(), 4);
        assert_eq!(quantile(&times[..1], 0.5).as_secs(), 1);
    }

    #[test]
    fn every_pair_that_is_the_wrong_way_round_counts() {
        for (line, expected) in [
            (vec![], 0),
            (vec![1, 2, 3], 0),
            (vec![3, 2, 1], 3),
            (vec![2, 1, 4, 3], 2),
        ] {
            assert_eq!(inversions(&mut line.clone()), expected, "{line:?}");
        }
    }
}
