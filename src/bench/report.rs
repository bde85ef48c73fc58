//! The report of a bench: what was run, and the results.

use serde::Serialize;

use super::{figures::Figures, limit::Limit, log::RunEvents, pattern::Request, policy::Policy};

/// The report.
#[derive(Debug, Serialize)]
pub struct BenchReport {
    /// The pattern as given.
    pub pattern: String,
    /// Seed of all random numbers.
    pub seed: u64,
    /// `virtual` or `real`.
    pub clock: &'static str,
    /// The upstream's mean response time, in ms.
    pub answer_time_ms: u64,
    /// One result for each policy, in the given order.
    pub policies: Vec<PolicyResult>,
}

/// The result of one policy.
#[derive(Debug, Serialize)]
pub struct PolicyResult {
    /// Name of the policy.
    pub policy: String,
    /// The limits of the upstream.
    pub limits: Vec<String>,
    /// The figures.
    #[serde(flatten)]
    pub figures: Figures,
    /// All events.
    #[serde(skip)]
    pub log: RunEvents,
    /// The limit that sets the window of the figures.
    #[serde(skip)]
    pub(super) limit: Option<Limit>,
}

// === impl BenchReport ===

impl BenchReport {
    /// The report as JSON, with a line break at its end.
    pub fn json(&self) -> String {
        // Strings, numbers and lists always serialize.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// What was run, in one phrase.
    pub fn scenario(&self) -> String {
        let requests = self
            .policies
            .first()
            .map_or(0, |result| result.figures.requests);
        format!(
            "{}: {requests} requests, {} time, seed {}",
            self.pattern, self.clock, self.seed
        )
    }
}

// === impl PolicyResult ===

impl PolicyResult {
    /// `dispatches` is the policy's count, `lone` a run of requests without others.
    pub(super) fn new(
        policy: &Policy,
        requests: &[Request],
        log: RunEvents,
        dispatches: u64,
        lone: &RunEvents,
    ) -> Self {
        Self {
            policy: policy.name.clone(),
            limits: policy.limits.iter().map(ToString::to_string).collect(),
            figures: Figures::of(&log, requests, &policy.limits, dispatches, lone),
            limit: policy.limits.iter().min_by_key(|limit| limit.per).copied(),
            log,
        }
    }
}
