//! The events of one run: what clients sent, and what reached the upstream.

use std::{collections::HashMap, time::Duration};

use parking_lot::{Mutex, MutexGuard};

use super::pattern::Request;

/// The events of one run, with times since its start.
#[derive(Clone, Debug, Default)]
pub struct RunEvents {
    /// Every request that a client sent, in order. A client sends a refused request again.
    pub(super) sent: Vec<SentRequest>,
    /// Every request that reached the upstream, in order.
    pub(super) attempts: Vec<Attempt>,
    /// Requests that the policy refused.
    pub(super) turned_away: usize,
    /// Requests that their client gave up.
    pub(super) given_up: usize,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct SentRequest {
    /// Index of the request in the pattern.
    pub(super) request: usize,
    pub(super) at: Duration,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    /// Index of the request in [`RunEvents::sent`].
    pub(super) request_id: usize,
    pub(super) at: Duration,
    pub(super) admitted: bool,
}

/// The events of a run that has not ended.
#[derive(Debug, Default)]
pub(super) struct RequestLog(Mutex<RunEvents>);

/// When a request arrived and was admitted.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestOutcome {
    /// When the client first sent it.
    pub(super) arrived: Duration,
    /// When the upstream admitted it.
    pub(super) admitted: Option<Duration>,
}

// === impl RunEvents ===

impl RunEvents {
    /// The waits of all admitted requests, sorted.
    pub fn waits(&self) -> Vec<Duration> {
        let outcomes = self.outcomes();
        let mut waits: Vec<_> = outcomes
            .values()
            .filter_map(|outcome| Some(outcome.admitted? - outcome.arrived))
            .collect();
        waits.sort_unstable();
        waits
    }

    pub(super) fn outcomes(&self) -> HashMap<usize, RequestOutcome> {
        let mut outcomes = HashMap::new();
        for sent in &self.sent {
            outcomes.entry(sent.request).or_insert(RequestOutcome {
                arrived: sent.at,
                admitted: None,
            });
        }
        for admitted in self.attempts.iter().filter(|attempt| attempt.admitted) {
            let sent = self.sent[admitted.request_id];
            if let Some(outcome) = outcomes.get_mut(&sent.request) {
                outcome.admitted = Some(admitted.at);
            }
        }
        outcomes
    }
}

// === impl RequestLog ===

impl RequestLog {
    /// Records that a client sends `request`, and returns the index of this record.
    pub(super) fn record_sent(&self, request: usize, at: Duration) -> usize {
        let mut log = self.lock();
        log.sent.push(SentRequest { request, at });
        log.sent.len() - 1
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, RunEvents> {
        self.0.lock()
    }

    pub(super) fn take(&self) -> RunEvents {
        std::mem::take(&mut *self.lock())
    }
}

/// The session whose turn a request takes: for a sub-agent, its parent's.
pub(super) fn turn(request: &Request) -> &str {
    request.parent.as_ref().unwrap_or(&request.session)
}
