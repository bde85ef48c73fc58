//! What happened, in the order in which it happened.

use std::time::Duration;

use pacegate_layers::pacing::Refused;

#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) entries: Vec<Entry>,
    /// Who still waits and who is in flight when everybody should have gone.
    pub(crate) left_over: (usize, usize),
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) at: Duration,
    /// The latest that the process has read from the wall clock until then, in microseconds.
    pub(crate) seen: i64,
    pub(crate) event: Event,
}

/// One event; a request is its index.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Dispatched {
        request: usize,
    },
    /// The head of an answer came: used up, until when.
    Exhausted {
        until: Duration,
    },
    /// The slot is free again.
    Freed {
        request: usize,
    },
    /// Left the queue by itself.
    GivesUp {
        request: usize,
    },
    /// The head of an answer came: a refusal, until when.
    Refused {
        request: usize,
        until: Duration,
    },
    /// Was not let into the queue, or sent away from it.
    SentAway {
        request: usize,
        why: Refused,
    },
    /// The wall clock was set by so many milliseconds.
    Set {
        by: i64,
    },
    /// A process has begun, and finds its quotas used so far.
    Started {
        used: Option<Vec<usize>>,
    },
    /// The process has ended. What the gate and the book said last.
    Stopped {
        counted: u64,
        used: Option<Vec<usize>>,
    },
    /// The head of an answer came, and it was no refusal.
    Taken {
        request: usize,
    },
    /// No connection was made for it.
    Unreached {
        request: usize,
    },
    /// Comes to the gate, for the first time or again.
    Waits {
        request: usize,
        again: bool,
    },
}
