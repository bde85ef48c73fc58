//! Holds a log against every promise.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    num::NonZeroUsize,
    time::Duration,
};

use pacegate_layers::jitter_throttle::{Order, Refused, Share};

use crate::{
    play::{Event, Log},
    scenario::Scenario,
};

/// What a gate promises, by the names of the module documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    Accounting,
    Bound,
    Closing,
    Concurrency,
    Ends,
    Gap,
    Order,
    Probe,
    Shrink,
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

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {:?}: {}", self.promise, self.at, self.what)
    }
}

/// tokio's timers tick once a millisecond, and may be one late.
const TICK: Duration = Duration::from_millis(2);

/// From the second refusal in a row on, quotas are shrunk for so long.
const CAUTION: Duration = Duration::from_secs(300);

/// What can be told from outside at some point of the log.
struct Watch<'a> {
    scenario: &'a Scenario,
    now: Duration,
    waiting: BTreeMap<usize, Wait>,
    in_flight: BTreeSet<usize>,
    dispatched: Vec<Duration>,
    last: Option<Duration>,
    closed: Option<Closed>,
    in_a_row: u32,
    shrunk_until: Duration,
    /// The latest instant at which a slot or a probe's answer set somebody free.
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
        waiting: BTreeMap::new(),
        in_flight: BTreeSet::new(),
        dispatched: Vec::new(),
        last: None,
        closed: None,
        in_a_row: 0,
        shrunk_until: Duration::ZERO,
        freed: Duration::ZERO,
    };
    for (number, (at, event)) in log.events.iter().enumerate() {
        watch.now = *at;
        watch.see(number, *event)?;
    }
    let dispatched = log.dispatches() as u64;
    watch.hold(Promise::Accounting, log.counted == dispatched, || {
        format!("the gate counts {}, {dispatched} left", log.counted)
    })?;
    let gone = watch.waiting.is_empty() && log.left_over == (0, 0);
    watch.hold(Promise::Ends, gone, || {
        let (waiting, in_flight) = log.left_over;
        format!("{waiting} still wait and {in_flight} are in flight when the day is over")
    })
}

impl Watch<'_> {
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

    fn see(&mut self, number: usize, event: Event) -> Result<(), Broken> {
        match event {
            Event::Waits { request, again } => {
                let wait = Wait {
                    since: self.now,
                    number,
                    again,
                    served: BTreeSet::new(),
                };
                self.waiting.insert(request, wait);
                Ok(())
            }
            Event::GivesUp { request } => {
                self.waiting.remove(&request);
                self.bound()
            }
            Event::SentAway { request, why } => self.sent_away(request, why),
            Event::Dispatched { request } => self.dispatch(request),
            Event::Refused { request, until } => {
                self.refused(request, until);
                Ok(())
            }
            Event::Taken { request } => {
                self.taken(request);
                Ok(())
            }
            Event::Freed { request } => {
                self.in_flight.remove(&request);
                if self.is_probe(request)
                    && let Some(closed) = &mut self.closed
                {
                    closed.probe = None;
                }
                self.freed = self.now;
                Ok(())
            }
        }
    }

    fn dispatch(&mut self, request: usize) -> Result<(), Broken> {
        self.bound()?;
        self.gap()?;
        self.windows()?;
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
        self.dispatched.push(self.now);
        self.last = Some(self.now);
        if let Some(closed) = &mut self.closed {
            closed.probe = Some(request);
        }
        let most = self
            .scenario
            .concurrency
            .map_or(usize::MAX, NonZeroUsize::get);
        self.hold(Promise::Concurrency, self.in_flight.len() <= most, || {
            format!("{} in flight, {most} may be", self.in_flight.len())
        })
    }

    fn gap(&self) -> Result<(), Broken> {
        let least = self.scenario.min_interval + self.scenario.jitter_bounds().0;
        let gap = self.last.map_or(least, |last| self.now - last);
        self.hold(Promise::Gap, gap >= least, || {
            format!("{gap:?} after the one before")
        })
    }

    fn windows(&self) -> Result<(), Broken> {
        for (requests, per) in &self.scenario.windows {
            let inside = |sent: &&Duration| self.now.saturating_sub(**sent) < *per;
            let count = self.dispatched.iter().rev().take_while(inside).count() + 1;
            self.hold(Promise::Window, count <= requests.get(), || {
                format!("{count} in {per:?}, {requests} may be")
            })?;
            let shrunk = Share::SHRUNK.of(*requests);
            let fits = count <= shrunk || self.now >= self.shrunk_until;
            self.hold(Promise::Shrink, fits, || {
                format!("{count} in {per:?} after two refusals, {shrunk} may be")
            })?;
        }
        Ok(())
    }

    fn closing(&self) -> Result<(), Broken> {
        let Some(closed) = &self.closed else {
            return Ok(());
        };
        self.hold(Promise::Closing, self.now >= closed.until, || {
            format!("closed until {:?}", closed.until)
        })?;
        self.hold(Promise::Probe, closed.probe.is_none(), || {
            format!("the probe {:?} has no answer yet", closed.probe)
        })
    }

    /// Retries first; then first come, first served within a line; and no session twice before
    /// another that waits once.
    fn order(&mut self, request: usize, wait: &Wait) -> Result<(), Broken> {
        let fair = self.scenario.order == Order::Fair;
        let line = |index: usize| {
            let request = &self.scenario.requests[index];
            fair.then_some((request.session, request.is_child))
        };
        for (other, theirs) in &self.waiting {
            let earlier = match (wait.again, theirs.again) {
                // By who came first the first time.
                (true, true) => {
                    self.scenario.requests[*other].arrives < self.scenario.requests[request].arrives
                }
                (true, false) => false,
                (false, true) => true,
                (false, false) => {
                    let own_before_childrens = fair
                        && line(request).map(|line| line.0) == line(*other).map(|line| line.0)
                        && self.scenario.requests[request].is_child
                        && !self.scenario.requests[*other].is_child;
                    let before = theirs.number < wait.number && line(request) == line(*other);
                    own_before_childrens || before
                }
            };
            self.hold(Promise::Order, !earlier, || {
                format!("{request} left while {other} was first")
            })?;
        }
        if !fair || wait.again {
            return Ok(());
        }
        // The session's next turn comes after everybody else's.
        let session = self.scenario.requests[request].session;
        for (other, theirs) in &mut self.waiting {
            let other_session = self.scenario.requests[*other].session;
            if other_session == session {
                theirs.served.clear();
            } else if !theirs.again && !theirs.served.insert(session) {
                let twice = format!("session {session} was served twice while {other} waited");
                return Err(Broken {
                    promise: Promise::Order,
                    at: self.now,
                    what: twice,
                });
            }
        }
        Ok(())
    }

    /// Nothing but what is promised may have held up the one that leaves now.
    fn work_conserving(&self, wait: &Wait) -> Result<(), Broken> {
        let longest = self.scenario.min_interval + self.scenario.jitter_bounds().1;
        let gap = self.last.map_or(Duration::ZERO, |last| last + longest);
        let closed = self
            .closed
            .as_ref()
            .map_or(Duration::ZERO, |closed| closed.until);
        let windows = self.scenario.windows.iter().map(|(requests, per)| {
            let place = |limit: usize| {
                let oldest = self.dispatched.len().checked_sub(limit)?;
                Some(self.dispatched[oldest] + *per)
            };
            let whole = place(requests.get()).unwrap_or_default();
            // Shrunk for as long as that lasts, then whole.
            let shrunk = place(Share::SHRUNK.of(*requests)).unwrap_or_default();
            whole.max(shrunk.min(self.shrunk_until))
        });
        let allowed = windows
            .chain([gap, closed, wait.since, self.freed])
            .max()
            .unwrap_or_default();
        self.hold(Promise::WorkConserving, self.now <= allowed + TICK, || {
            format!("nothing held it after {allowed:?}")
        })
    }

    fn sent_away(&mut self, request: usize, why: Refused) -> Result<(), Broken> {
        self.waiting.remove(&request);
        let others = self.waiting.len();
        let (holds, what) = match why {
            Refused::QueueFull { waiting, .. } => (
                waiting >= self.scenario.max_queue && others >= waiting,
                format!("sent away with {others} waiting"),
            ),
            Refused::QuotaExhausted { reset: wait }
            | Refused::WouldWaitTooLong { estimate: wait } => (
                wait > self.scenario.max_wait,
                format!("sent away before a wait of {wait:?}"),
            ),
        };
        self.hold(Promise::Bound, holds, || what)
    }

    /// Retries come on top: they have been let in before.
    fn bound(&self) -> Result<(), Broken> {
        let newcomers = self.waiting.values().filter(|wait| !wait.again).count();
        // One may be on its way through without having to wait.
        self.hold(
            Promise::Bound,
            newcomers <= self.scenario.max_queue + 1,
            || format!("{newcomers} wait, {} may", self.scenario.max_queue),
        )
    }

    fn refused(&mut self, request: usize, until: Duration) {
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

    fn is_probe(&self, request: usize) -> bool {
        self.closed.as_ref().and_then(|closed| closed.probe) == Some(request)
    }
}
