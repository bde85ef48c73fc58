//! What is told of a bench: what was run, and what came of it.

use serde::Serialize;

use super::{figures::Figures, limit::Limit, log::Log, pattern::Request, policy::Policy};

/// Everything that is told.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The pattern as it was written.
    pub pattern: String,
    /// Decided everything that was left to chance.
    pub seed: u64,
    /// `virtual` or `real`.
    pub clock: &'static str,
    /// What the upstream takes for an answer on average, in ms.
    pub answer_time_ms: u64,
    /// One for each policy, as they were named.
    pub policies: Vec<Outcome>,
}

/// What one policy made of it.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// Its name.
    pub policy: String,
    /// What the upstream admitted.
    pub limits: Vec<String>,
    /// What it amounts to.
    #[serde(flatten)]
    pub figures: Figures,
    /// Everything that happened.
    #[serde(skip)]
    pub log: Log,
    /// The limit of the windows that are looked at.
    #[serde(skip)]
    pub(super) limit: Option<Limit>,
}

// === impl Report ===

impl Report {
    /// The report as JSON, with a line break at its end.
    pub fn json(&self) -> String {
        // Strings, numbers and lists make a document.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// What was run, in a sentence without a full stop.
    pub fn scenario(&self) -> String {
        let requests = self
            .policies
            .first()
            .map_or(0, |outcome| outcome.figures.requests);
        format!(
            "{}: {requests} requests, {} time, seed {}",
            self.pattern, self.clock, self.seed
        )
    }
}

// === impl Outcome ===

impl Outcome {
    /// `sent` is the policy's own count, `lone` a log of requests that had nobody before them.
    pub(super) fn new(
        policy: &Policy,
        requests: &[Request],
        log: Log,
        sent: u64,
        lone: &Log,
    ) -> Self {
        Self {
            policy: policy.name.clone(),
            limits: policy.limits.iter().map(ToString::to_string).collect(),
            figures: Figures::of(&log, requests, &policy.limits, sent, lone),
            limit: policy.limits.iter().min_by_key(|limit| limit.per).copied(),
            log,
        }
    }
}
