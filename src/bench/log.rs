//! What happened in one run: what clients saw on one side, and the upstream on the other.

use std::{collections::HashMap, time::Duration};

use parking_lot::{Mutex, MutexGuard};

use super::pattern::Request;

/// What happened, with times since the start of the run.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// Every time that a client asked, in order. A client that is sent away asks again.
    pub(super) asked: Vec<Asked>,
    /// Every request that reached the upstream, in order.
    pub(super) tries: Vec<Try>,
    /// How often the policy itself sent a client away.
    pub(super) turned_away: usize,
    /// Requests that no client asks for any more, and that were not answered.
    pub(super) given_up: usize,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// The index of the request.
    pub(super) request: usize,
    pub(super) at: Duration,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Try {
    /// Which of [`Log::asked`] it came from.
    pub(super) asked: usize,
    pub(super) at: Duration,
    pub(super) admitted: bool,
}

/// A log that is being written.
#[derive(Debug, Default)]
pub(super) struct Book(Mutex<Log>);

/// What came of one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fate {
    /// When it was first asked for.
    pub(super) arrived: Duration,
    /// When it reached the upstream and was taken on.
    pub(super) admitted: Option<Duration>,
}

// === impl Log ===

impl Log {
    /// How long each of those that were answered had to wait, in order.
    pub fn waits(&self) -> Vec<Duration> {
        let fates = self.fates();
        let mut waits: Vec<_> = fates
            .values()
            .filter_map(|fate| Some(fate.admitted? - fate.arrived))
            .collect();
        waits.sort_unstable();
        waits
    }

    pub(super) fn fates(&self) -> HashMap<usize, Fate> {
        let mut fates = HashMap::new();
        for asked in &self.asked {
            fates.entry(asked.request).or_insert(Fate {
                arrived: asked.at,
                admitted: None,
            });
        }
        for admitted in self.tries.iter().filter(|a_try| a_try.admitted) {
            let asked = self.asked[admitted.asked];
            if let Some(fate) = fates.get_mut(&asked.request) {
                fate.admitted = Some(admitted.at);
            }
        }
        fates
    }
}

// === impl Book ===

impl Book {
    /// A client asks for `request`; what is returned goes with it.
    pub(super) fn ask(&self, request: usize, at: Duration) -> usize {
        let mut log = self.lock();
        log.asked.push(Asked { request, at });
        log.asked.len() - 1
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Log> {
        self.0.lock()
    }

    pub(super) fn take(&self) -> Log {
        std::mem::take(&mut *self.lock())
    }
}

/// Whose turns a request takes: a sub-agent's are its parent's.
pub(super) fn turn(request: &Request) -> &str {
    request.parent.as_ref().unwrap_or(&request.session)
}
