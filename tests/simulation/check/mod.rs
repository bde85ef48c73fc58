//! Holds a log against every promise. Shares no code with what it checks.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    num::NonZeroUsize,
    time::Duration,
};

use pacegate_layers::pacing::Refused;

use crate::{
    play::{Entry, Event, Log},
    scenario::Scenario,
};

mod calendar;
mod clock;
mod ledger;
mod order;
mod pace;
mod usage;

use self::{clock::Clock, ledger::Ledger};

/// What is promised, by the names of the gate's documentation and the book's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    Accounting,
    Bound,
    Closing,
    Concurrency,
    Day,
    Ends,
    Exhausted,
    Gap,
    Order,
    Probe,
    Shrink,
    Usage,
    Window,
    WorkConserving,
}

/// A promise that was broken, and when.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) promise: Promise,
    at: Duration,
    what: String,
}

/// tokio's timers tick once a millisecond, and may be one late.
const TICK: Duration = Duration::from_millis(2);

/// What can be told from outside at some point of the log.
struct Watch<'a> {
    scenario: &'a Scenario,
    now: Duration,
    clock: Clock,
    ledger: Ledger<'a>,
    /// When the process began, and how many have been dispatched since.
    started: Duration,
    since_start: u64,
    waiting: BTreeMap<usize, Wait>,
    in_flight: BTreeSet<usize>,
    last: Option<Duration>,
    closed: Option<Closed>,
    in_a_row: u32,
    shrunk_until: Duration,
    exhausted_until: Duration,
    /// The latest instant at which a slot, a probe's answer or what was given back set somebody free.
    freed: Duration,
}

#[derive(Clone)]
struct Wait {
    since: Duration,
    number: usize,
    again: bool,
    /// Other sessions that have been served since this one's turn was due.
    served: BTreeSet<usize>,
}

struct Closed {
    until: Duration,
    probe: Option<usize>,
}

pub(crate) fn all(scenario: &Scenario, log: &Log) -> Result<(), Broken> {
    let mut watch = Watch {
        scenario,
        now: Duration::ZERO,
        clock: Clock::new(scenario.begins),
        ledger: Ledger::new(&scenario.quotas),
        started: Duration::ZERO,
        since_start: 0,
        waiting: BTreeMap::new(),
        in_flight: BTreeSet::new(),
        last: None,
        closed: None,
        in_a_row: 0,
        shrunk_until: Duration::ZERO,
        exhausted_until: Duration::ZERO,
        freed: Duration::ZERO,
    };
    let (end, entries) = log.entries.split_last().ok_or_else(|| Broken {
        promise: Promise::Ends,
        at: Duration::ZERO,
        what: "it has not begun".into(),
    })?;
    for (number, entry) in entries.iter().enumerate() {
        watch.see(number, entry)?;
    }
    let gone = watch.waiting.is_empty() && log.left_over == (0, 0);
    watch.see(entries.len(), end)?;
    watch.hold(Promise::Ends, gone, || {
        let (waiting, in_flight) = log.left_over;
        format!("{waiting} still wait and {in_flight} are in flight when it is over")
    })
}

// === impl Watch ===

impl Watch<'_> {
    fn see(&mut self, number: usize, entry: &Entry) -> Result<(), Broken> {
        self.now = entry.at;
        self.clock.look(entry);
        match &entry.event {
            Event::Dispatched { request } => self.dispatch(*request),
            Event::Exhausted { until } => {
                self.exhausted_until = self.exhausted_until.max(*until);
                Ok(())
            }
            Event::Freed { request } => {
                self.freed(*request);
                Ok(())
            }
            Event::GivesUp { request } => {
                self.waiting.remove(request);
                self.bound()
            }
            Event::Refused { request, until } => {
                self.refused(*request, *until);
                Ok(())
            }
            Event::SentAway { request, why } => self.sent_away(*request, *why),
            Event::Set { by } => {
                self.clock.set(*by);
                Ok(())
            }
            Event::Started { used } => self.started(number, used.as_deref()),
            Event::Stopped { counted, used } => self.stopped(*counted, used.as_deref()),
            Event::Taken { request } => {
                self.taken(*request);
                Ok(())
            }
            Event::Unreached { request } => {
                self.ledger.give_back(*request);
                self.clock.keep();
                self.freed = self.now;
                Ok(())
            }
            Event::Waits { request, again } => {
                let wait = Wait {
                    since: self.now,
                    number,
                    again: *again,
                    served: BTreeSet::new(),
                };
                self.waiting.insert(*request, wait);
                Ok(())
            }
        }
    }

    fn dispatch(&mut self, request: usize) -> Result<(), Broken> {
        self.bound()?;
        self.gap()?;
        self.closing()?;
        let Some(wait) = self.waiting.get(&request).cloned() else {
            return self.hold(Promise::Accounting, false, || {
                format!("{request} left and was not waiting")
            });
        };
        self.order(request, &wait)?;
        self.work_conserving(&wait)?;

        self.waiting.remove(&request);
        self.in_flight.insert(request);
        self.last = Some(self.now);
        self.since_start += 1;
        if let Some(closed) = &mut self.closed {
            closed.probe = Some(request);
        }
        self.clock.keep();
        self.ledger.spend(request, &self.clock);
        self.quotas()?;
        let most = self
            .scenario
            .concurrency
            .map_or(usize::MAX, NonZeroUsize::get);
        self.hold(Promise::Concurrency, self.in_flight.len() <= most, || {
            format!("{} in flight, {most} may be", self.in_flight.len())
        })
    }

    fn freed(&mut self, request: usize) {
        let most = self.scenario.concurrency.map(NonZeroUsize::get);
        if self.is_probe(request) || most.is_some_and(|most| self.in_flight.len() >= most) {
            self.freed = self.now;
        }
        if self.is_probe(request)
            && let Some(closed) = &mut self.closed
        {
            closed.probe = None;
        }
        self.in_flight.remove(&request);
    }

    fn refused(&mut self, request: usize, until: Duration) {
        /// From the second refusal in a row on, quotas are shrunk for so long.
        const CAUTION: Duration = Duration::from_secs(300);

        let probe = self.is_probe(request);
        if self.closed.is_none() || probe {
            self.in_a_row += 1;
            if self.in_a_row >= 2 {
                self.shrunk_until = self.now + CAUTION;
            }
        }
        let closed = self.closed.get_or_insert(Closed { until, probe: None });
        closed.until = closed.until.max(until);
        if probe {
            closed.probe = None;
        }
    }

    fn taken(&mut self, request: usize) {
        if !self.is_probe(request) {
            return;
        }
        self.freed = self.now;
        match &mut self.closed {
            Some(closed) if closed.until > self.now => closed.probe = None,
            _ => {
                self.closed = None;
                self.in_a_row = 0;
            }
        }
    }

    fn sent_away(&mut self, request: usize, why: Refused) -> Result<(), Broken> {
        let waited = self
            .waiting
            .remove(&request)
            .map(|wait| self.now - wait.since);
        let waited = waited.unwrap_or_default();
        let others = self.waiting.len();
        let longest = self.scenario.max_wait;
        let (holds, what) = match why {
            Refused::Draining => (
                false,
                "sent away by a shutdown that nobody began".to_owned(),
            ),
            Refused::QueueFull { waiting, .. } => (
                waiting >= self.scenario.max_queue && others >= waiting,
                format!("sent away with {others} waiting"),
            ),
            Refused::QuotaExhausted { reset } => {
                let room = self.room().saturating_sub(self.now);
                let says_so = reset.abs_diff(room) <= self.tolerance();
                (
                    reset > longest && says_so,
                    format!("sent away for {reset:?} when there is room after {room:?}"),
                )
            }
            Refused::WouldWaitTooLong { estimate } => (
                waited + estimate + TICK > longest,
                format!("sent away after {waited:?}, before a wait of {estimate:?}"),
            ),
        };
        self.hold(Promise::Bound, holds, || what)
    }

    /// Everything but quotas begins anew with a process.
    fn started(&mut self, number: usize, used: Option<&[usize]>) -> Result<(), Broken> {
        if number > 0 {
            self.clock.restarted();
        }
        self.clock.keep();
        self.started = self.now;
        self.since_start = 0;
        self.last = None;
        self.closed = None;
        self.in_a_row = 0;
        self.shrunk_until = Duration::ZERO;
        self.exhausted_until = Duration::ZERO;
        self.freed = self.now;
        self.usage(used)
    }

    fn stopped(&mut self, counted: u64, used: Option<&[usize]>) -> Result<(), Broken> {
        self.waiting.clear();
        self.in_flight.clear();
        let dispatched = self.since_start;
        self.hold(Promise::Accounting, counted == dispatched, || {
            format!("the gate counts {counted}, {dispatched} left")
        })?;
        self.usage(used)
    }

    fn is_probe(&self, request: usize) -> bool {
        self.closed.as_ref().and_then(|closed| closed.probe) == Some(request)
    }

    fn hold(
        &self,
        promise: Promise,
        holds: bool,
        what: impl FnOnce() -> String,
    ) -> Result<(), Broken> {
        if holds {
            return Ok(());
        }
        Err(Broken {
            promise,
            at: self.now,
            what: what(),
        })
    }
}

// === impl Broken ===

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {:?}: {}", self.promise, self.at, self.what)
    }
}
