//! Counts how much of an account's quotas is used, exactly and across restarts.
//!
//! A [`QuotaLedger`] holds the counters of one upstream; the upstream's gate asks it for room and
//! records dispatches in it. Each dispatch writes `quotas-NAME.json` in the state directory before
//! the request leaves. A process that is killed in between has counted one request too many, never
//! one too few. (A power cut may also undo the last write.) The write blocks the dispatching thread
//! for 4 to 8 ms on the disk where it was measured, nearly all of it in `fsync`. The timestamp is
//! taken after the write. After a crash the last entry may be a few ms early, never late.
//!
//! # Time
//!
//! - Windows such as `60s` or `5h` run on the monotonic clock, so setting the wall clock changes
//!   nothing while the process lives. The time between two processes comes from the wall clock; if
//!   it went back meanwhile, no time has passed. Time in suspend does not count, so a window may
//!   end late after it, never early.
//! - Days, weeks and months run on the wall clock. If it goes back, the latest time seen stands
//!   until the clock has caught up, also across a restart. If it goes forward by a day, a new day
//!   begins. To make a ledger forget such a time, stop pacegate and remove the file.
//!
//! # What a changed config carries over
//!
//! The count of a window of the same length, and of a day, week or month in the same zone (and with
//! the same anchor day), whatever the limits. All other counts start at zero.

use std::{fmt, io, path::Path, time::SystemTime};

use pacegate_layers::pacing::{Claim, ClaimFuture, Fraction, Ledger};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;
use tracing::warn;

use crate::{config, wall_clock::WallClock};

mod clock;
mod counter;
mod file;
mod lock;
mod rolling;
mod snapshot;
#[cfg(test)]
mod tests;

pub use self::{
    counter::UnknownZone,
    lock::AlreadyLocked,
    snapshot::{LedgerSnapshot, SnapshotError},
};

use self::{
    clock::{Clock, Now},
    counter::Counter,
    file::StateFile,
    snapshot::CounterSnapshot,
};

/// Only the account that runs pacegate may read and write the state file and its lock.
const FILE_MODE: u32 = 0o600;

/// The quota counters of one upstream.
#[derive(Debug)]
pub struct QuotaLedger(Mutex<LedgerState>);

/// Storage for counts that outlive the process.
pub trait Store: fmt::Debug + Send {
    /// Replaces the saved snapshot. Once this returns, killing the process does not undo the write.
    /// May block; a store reports its failures itself.
    fn save(&mut self, snapshot: &LedgerSnapshot);
}

/// Why a ledger cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another ledger of this one, uses the same state file.
    #[error(transparent)]
    AlreadyLocked(#[from] AlreadyLocked),
    /// A time zone that is not in the database. A checked config names none.
    #[error(transparent)]
    UnknownZone(#[from] UnknownZone),
}

/// Why a state file tells nothing about usage.
#[derive(Debug, thiserror::Error)]
pub enum PeekError {
    /// The file cannot be read.
    #[error("the state file cannot be read")]
    Io(#[from] io::Error),
    /// A time zone that is not in the database. A checked config names none.
    #[error(transparent)]
    UnknownZone(#[from] UnknownZone),
    /// It is not a state file, or one of a later version.
    #[error("the state file is not readable: {0}")]
    Unreadable(String),
}

/// How much of one quota is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaUsage {
    /// The quota in words, such as `1000 per day (Asia/Shanghai)`; unique within a ledger.
    pub quota: String,
    /// How many dispatches count now.
    pub used: usize,
    /// The most dispatches that may count.
    pub limit: usize,
    /// When `used` shrinks next, by the wall clock: at the end of the day, week or month, or when
    /// the oldest dispatch leaves the window; now if nothing is used.
    pub resets: SystemTime,
}

#[derive(Debug)]
struct LedgerState {
    upstream: String,
    clock: Clock,
    counters: Vec<Counter>,
    /// `None` counts in memory only.
    store: Option<Box<dyn Store>>,
}

/// Reads from the state file how much of each quota of `upstream` is used. Does not take its lock:
/// another process may be counting there. Without a file, nothing has been used. Blocks while
/// reading.
///
/// # Errors
///
/// [`PeekError`]; the file stays as it is.
pub fn peek(
    upstream: &str,
    quotas: &[config::Quota],
    state_dir: &Path,
    wall: WallClock,
) -> Result<Vec<QuotaUsage>, PeekError> {
    let snapshot = file::peek(state_dir, upstream)?;
    let (times, counts) = snapshot.map(|it| (it.times, it.counts)).unzip();
    let now = Clock::new(wall, times).now();
    let mut counters = counters(quotas, counts.as_deref().unwrap_or_default(), &now)?;
    Ok(counters.iter_mut().map(|it| it.usage(&now)).collect())
}

fn counters(
    quotas: &[config::Quota],
    counts: &[CounterSnapshot],
    now: &Now,
) -> Result<Vec<Counter>, UnknownZone> {
    let mut counters: Vec<Counter> = Vec::new();
    for quota in quotas {
        let counter = Counter::new(quota, counts, now)?;
        // A quota that is listed twice is counted once.
        if !counters.iter().any(|known| known.text() == counter.text()) {
            counters.push(counter);
        }
    }
    Ok(counters)
}

// === impl QuotaLedger ===

impl QuotaLedger {
    /// Continues the counts that the last process saved for `upstream`, and locks its state file
    /// until dropped. Without a usable `state_dir`, logs a warning and counts in memory. Blocks on
    /// the disk.
    ///
    /// # Errors
    ///
    /// [`OpenError::AlreadyLocked`] if another process, or another ledger of this one, uses that
    /// file; [`OpenError::UnknownZone`] for a time zone that is not in the database.
    pub fn open(
        upstream: &str,
        quotas: &[config::Quota],
        state_dir: Option<&Path>,
        wall: WallClock,
    ) -> Result<Self, OpenError> {
        let (file, snapshot) = match state_dir {
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
        Ok(Self::resume(upstream, quotas, snapshot, store, wall)?)
    }

    /// Continues from `snapshot`, if there is one, and saves counts in `store`; without one, counts
    /// in memory.
    ///
    /// # Errors
    ///
    /// [`UnknownZone`] for a time zone that is not in the database.
    pub fn resume(
        upstream: &str,
        quotas: &[config::Quota],
        snapshot: Option<LedgerSnapshot>,
        store: Option<Box<dyn Store>>,
        wall: WallClock,
    ) -> Result<Self, UnknownZone> {
        let (times, counts) = snapshot.map(|it| (it.times, it.counts)).unzip();
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
        let mut state = LedgerState {
            upstream: upstream.into(),
            clock,
            counters,
            store,
        };
        state.save();
        Ok(Self(Mutex::new(state)))
    }

    /// Replaces the quotas and saves to the same file; the [module](self) says which counts are
    /// kept.
    ///
    /// # Errors
    ///
    /// [`UnknownZone`]; then nothing has changed.
    pub fn set_quotas(&self, quotas: &[config::Quota]) -> Result<(), UnknownZone> {
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
    pub fn usage(&self) -> Vec<QuotaUsage> {
        let mut state = self.lock();
        let now = state.clock.now();
        let counters = state.counters.iter_mut();
        counters.map(|counter| counter.usage(&now)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, LedgerState> {
        self.0.lock()
    }

    /// Counts a dispatch, whether there is a slot or not. Blocks until the counts are on disk.
    fn count(&self) {
        let mut state = self.lock();
        let now = state.clock.now();
        let LedgerState {
            upstream, counters, ..
        } = &mut *state;
        for counter in counters {
            counter.record(&now);
            if counter.should_warn(&now) {
                let QuotaUsage {
                    quota, used, limit, ..
                } = counter.usage(&now);
                warn!(%upstream, quota, used, limit, "Most of a quota is used up");
            }
        }
        state.save();
    }
}

impl Ledger for QuotaLedger {
    fn next_slot(&self, ahead: usize, share: Fraction) -> Option<Instant> {
        let mut state = self.lock();
        let now = state.clock.now();
        let waits = state
            .counters
            .iter_mut()
            .filter_map(|counter| counter.wait(ahead, share, &now));
        Some(now.instant + waits.max()?)
    }

    /// Blocks until the counts are on disk.
    fn claim(&self, share: Fraction) -> ClaimFuture {
        if let Some(slot) = self.next_slot(0, share) {
            return ClaimFuture::ready(Ok(Claim::Wait(slot)));
        }
        self.count();
        ClaimFuture::ready(Ok(Claim::Granted))
    }

    fn left(&self) {
        // The upstream counts a request from its arrival.
        let mut state = self.lock();
        let now = state.clock.now();
        for counter in &mut state.counters {
            counter.dispatched(&now);
        }
    }

    /// Blocks until the counts are on disk.
    fn undo(&self) {
        let mut state = self.lock();
        for counter in &mut state.counters {
            counter.undo();
        }
        state.save();
    }

    /// Blocks until the counts are on disk.
    fn unsent(&self, spent: Instant) {
        let mut state = self.lock();
        let now = state.clock.now();
        let at = state.clock.at(spent);
        for counter in &mut state.counters {
            counter.refund(at, spent, &now);
        }
        state.save();
    }
}

// === impl LedgerState ===

impl LedgerState {
    fn save(&mut self) {
        if let Some(store) = &mut self.store {
            let counts = self.counters.iter().map(Counter::count).collect();
            store.save(&LedgerSnapshot::new(self.clock.times(), counts));
        }
    }
}
