//! How much of an account's quotas is used, counted exactly over restarts.
//!
//! A [`Book`] holds all quotas of one upstream and is what its gate asks and tells. It is written
//! to `quotas-NAME.json` in the state directory at each dispatch, in the poll that dispatches and
//! before the request leaves. A process that is killed between the two has counted one request too
//! many; whenever it is killed, never one too few. (A power cut may also undo the last write.) The
//! thread that dispatches does nothing else meanwhile: 4 to 8 ms on the disk where it was measured,
//! nearly all of it in `fsync`, once per dispatch; a gate spaces those out. The request counts from
//! after that, when it leaves; the next process, if this one is killed before it dispatches again,
//! counts the last one from before it.
//!
//! # Time
//!
//! - Windows such as `60s` or `5h` run on the monotonic clock: a wall clock that is set changes
//!   nothing while the process lives. The time between two processes only the wall clock knows; if
//!   it goes back meanwhile, no time has passed. Time in which the machine is suspended does not
//!   count, so a window ends late after it, never early.
//! - Days, weeks and months run on the wall clock, which never goes back: if it does, the latest
//!   time that was seen stands until the clock has caught up, also over a restart. A clock that goes
//!   forward by a day hands out a new day; nothing tells that from a night. To make a book forget
//!   such a time, stop pacegate and remove the file.
//!
//! # What a changed config carries over
//!
//! The count of a window of the same length, and of a day, week or month in the same zone (and
//! with the same anchor day), whatever the limits. Everything else starts anew.

use std::{fmt, io, path::Path, time::SystemTime};

use pacegate_layers::pacing::{Fraction, Ledger};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;
use tracing::warn;

use crate::config;

mod calendar;
mod clock;
mod counter;
mod file;
mod lock;
mod record;
mod rolling;
#[cfg(test)]
mod tests;

pub use self::{
    clock::WallClock,
    counter::UnknownZone,
    lock::Held,
    record::{Record, Unreadable},
};

use self::{
    clock::{Clock, Now},
    counter::Counter,
    file::StateFile,
    record::Count,
};

/// Only the account that pacegate runs under reads and writes what is kept.
const FILE_MODE: u32 = 0o600;

/// All quotas of one upstream.
#[derive(Debug)]
pub struct Book(Mutex<State>);

/// Where counts outlive their process.
pub trait Store: fmt::Debug + Send {
    /// Puts `record` in the place of what was kept before. When it returns, no kill undoes that.
    fn keep(&mut self, record: &Record);
}

/// A book that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process counts on the same file.
    #[error(transparent)]
    Held(#[from] Held),
    /// A zone that is not in the time zone database. A checked config names none.
    #[error(transparent)]
    UnknownZone(#[from] UnknownZone),
}

/// A state file that does not say what is used.
#[derive(Debug, thiserror::Error)]
pub enum PeekError {
    /// The system refused.
    #[error("the state file cannot be read")]
    Io(#[from] io::Error),
    /// A zone that is not in the time zone database. A checked config names none.
    #[error(transparent)]
    UnknownZone(#[from] UnknownZone),
    /// It is not one, or of another version.
    #[error("the state file is not readable: {0}")]
    Unreadable(String),
}

/// How much of one quota is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The quota in words, such as `1000 per day (Asia/Shanghai)`; no two of a book are equal.
    pub quota: String,
    /// How many dispatches count now.
    pub used: usize,
    /// How many may.
    pub limit: usize,
    /// When `used` shrinks next, by the wall clock: at the end of the day, week or month, or when
    /// the oldest dispatch leaves the window; now if nothing is used.
    pub resets: SystemTime,
}

#[derive(Debug)]
struct State {
    upstream: String,
    clock: Clock,
    counters: Vec<Counter>,
    /// `None` counts in memory only.
    store: Option<Box<dyn Store>>,
}

/// How much of each quota of `upstream` is used, by the state file alone: without its lock, so it may
/// be another process that counts there. Without a file nothing has been used.
///
/// # Errors
///
/// [`PeekError`]; nothing is changed or kept aside.
pub fn peek(
    upstream: &str,
    quotas: &[config::Quota],
    state_dir: &Path,
    wall: WallClock,
) -> Result<Vec<Usage>, PeekError> {
    let record = file::peek(state_dir, upstream)?;
    let (times, counts) = record.map(|it| (it.times, it.counts)).unzip();
    let now = Clock::new(wall, times).now();
    let mut counters = counters(quotas, counts.as_deref().unwrap_or_default(), &now)?;
    Ok(counters.iter_mut().map(|it| it.usage(&now)).collect())
}

fn counters(
    quotas: &[config::Quota],
    counts: &[Count],
    now: &Now,
) -> Result<Vec<Counter>, UnknownZone> {
    let mut counters: Vec<Counter> = Vec::new();
    for quota in quotas {
        let counter = Counter::new(quota, counts, now)?;
        // The same quota twice is the same promise.
        if !counters.iter().any(|known| known.text() == counter.text()) {
            counters.push(counter);
        }
    }
    Ok(counters)
}

// === impl Book ===

impl Book {
    /// Takes up the counts of `upstream` where the last process left them, and holds its file until
    /// dropped. Without a `state_dir`, or with one that cannot be used, counts are kept in memory;
    /// a warning says so.
    ///
    /// # Errors
    ///
    /// [`OpenError::Held`] if another process, or another book in this one, counts on that file.
    pub fn open(
        upstream: &str,
        quotas: &[config::Quota],
        state_dir: Option<&Path>,
        wall: WallClock,
    ) -> Result<Self, OpenError> {
        let (file, record) = match state_dir {
            Some(directory) => StateFile::open(directory, upstream)?,
            None => {
                warn!(
                    upstream,
                    "Quotas are counted in memory only because there is no state-dir: a restart \
                     forgets them"
                );
                (None, None)
            }
        };
        let store = file.map(|file| Box::new(file) as Box<dyn Store>);
        Ok(Self::resume(upstream, quotas, record, store, wall)?)
    }

    /// Takes up what a `record` says, if there is one, and keeps the counts in `store`; without one,
    /// in memory.
    ///
    /// # Errors
    ///
    /// [`UnknownZone`] for a zone that is not in the time zone database.
    pub fn resume(
        upstream: &str,
        quotas: &[config::Quota],
        record: Option<Record>,
        store: Option<Box<dyn Store>>,
        wall: WallClock,
    ) -> Result<Self, UnknownZone> {
        let (times, counts) = record.map(|it| (it.times, it.counts)).unzip();
        let mut clock = Clock::new(wall, times);
        let now = clock.now();
        if let Some(behind) = now.behind() {
            warn!(
                upstream,
                ?behind,
                "The clock is behind the latest time at which quotas were counted; days, weeks and \
                 months stand still until it has caught up"
            );
        }
        let counters = counters(quotas, counts.as_deref().unwrap_or_default(), &now)?;
        let mut state = State {
            upstream: upstream.into(),
            clock,
            counters,
            store,
        };
        state.save();
        Ok(Self(Mutex::new(state)))
    }

    /// Counts by `quotas` from now on, in the same file; see the [module](self) for what is carried
    /// over.
    ///
    /// # Errors
    ///
    /// [`UnknownZone`]; then nothing has changed.
    pub fn change(&self, quotas: &[config::Quota]) -> Result<(), UnknownZone> {
        let mut state = self.lock();
        let now = state.clock.now();
        let counts: Vec<_> = state.counters.iter().map(Counter::count).collect();
        let changed = counters(quotas, &counts, &now)?;
        if !changed
            .iter()
            .map(Counter::text)
            .eq(state.counters.iter().map(Counter::text))
        {
            state.counters = changed;
            state.save();
        }
        Ok(())
    }

    /// How much of each quota is used, in the order of the config.
    pub fn usage(&self) -> Vec<Usage> {
        let mut state = self.lock();
        let now = state.clock.now();
        let counters = state.counters.iter_mut();
        counters.map(|counter| counter.usage(&now)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }
}

impl Ledger for Book {
    fn next_slot(&self, ahead: usize, share: Fraction) -> Option<Instant> {
        let mut state = self.lock();
        let now = state.clock.now();
        let waits = state
            .counters
            .iter_mut()
            .filter_map(|counter| counter.wait(ahead, share, &now));
        Some(now.instant + waits.max()?)
    }

    /// Blocks until it is on disk.
    fn record(&self) {
        let mut state = self.lock();
        let now = state.clock.now();
        let State {
            upstream, counters, ..
        } = &mut *state;
        for counter in counters {
            counter.record(&now);
            if counter.is_running_out(&now) {
                let Usage {
                    quota, used, limit, ..
                } = counter.usage(&now);
                warn!(%upstream, quota, used, limit, "Most of a quota is used up");
            }
        }
        state.save();
        // It leaves only now, and the upstream counts from when it comes.
        let now = state.clock.now();
        for counter in &mut state.counters {
            counter.leaves(&now);
        }
    }

    /// Blocks until it is on disk.
    fn refund(&self, spent: Instant) {
        let mut state = self.lock();
        let now = state.clock.now();
        let at = state.clock.at(spent);
        for counter in &mut state.counters {
            counter.refund(at, spent, &now);
        }
        state.save();
    }
}

// === impl State ===

impl State {
    fn save(&mut self) {
        if let Some(store) = &mut self.store {
            let counts = self.counters.iter().map(Counter::count).collect();
            store.keep(&Record::new(self.clock.times(), counts));
        }
    }
}
