//! A machine: a wall clock that can be set, and a disk that outlives whatever runs on it.

use std::{
    mem,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use pacegate::{
    quotas::{LedgerSnapshot, Store},
    wall_clock::WallClock,
};
use tokio::time::Instant;

use crate::fault::Fault;

/// Clones are the same machine. Times are microseconds.
#[derive(Clone, Debug)]
pub(crate) struct Machine(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// What the wall clock showed when all began, and when that was.
    began: (i64, Instant),
    set_by: i64,
    /// The latest wall-clock time that the running process has read, or has loaded.
    seen: i64,
    /// The part of it that the next process will load.
    kept: i64,
    disk: Option<LedgerSnapshot>,
    /// On its way to a disk that says it has it: a fault.
    late: Option<LedgerSnapshot>,
}

/// A file on the machine's disk, written by a process for as long as that lives.
#[derive(Debug)]
struct File {
    machine: Machine,
    process: Arc<AtomicBool>,
    fault: Option<Fault>,
}

// === impl Machine ===

impl Machine {
    pub(crate) fn new(wall: i64) -> Self {
        Self(Arc::new(Mutex::new(State {
            began: (wall, Instant::now()),
            set_by: 0,
            seen: wall,
            kept: wall,
            disk: None,
            late: None,
        })))
    }

    pub(crate) fn wall(&self) -> WallClock {
        let machine = self.clone();
        Arc::new(move || {
            let mut state = machine.state();
            let (wall, instant) = state.began;
            let passed = i64::try_from(instant.elapsed().as_micros()).unwrap();
            let shown = wall + passed + state.set_by;
            state.seen = state.seen.max(shown);
            UNIX_EPOCH + Duration::from_micros(u64::try_from(shown).unwrap())
        })
    }

    /// Sets the wall clock by so many milliseconds.
    pub(crate) fn set(&self, by: i64) {
        self.state().set_by += by * 1000;
    }

    pub(crate) fn seen(&self) -> i64 {
        self.state().seen
    }

    /// Saves the time seen for the next process.
    pub(crate) fn keep(&self) {
        let mut state = self.state();
        state.kept = state.seen;
    }

    /// The running process has been killed.
    pub(crate) fn killed(&self) {
        let mut state = self.state();
        state.seen = state.kept;
        state.late = None;
    }

    /// What the next process finds.
    pub(crate) fn record(&self, fault: Option<Fault>) -> Option<LedgerSnapshot> {
        let text = serde_json::to_string(self.state().disk.as_ref()?).unwrap();
        let text = match fault {
            Some(fault) => fault.spoil(&text)?,
            None => text,
        };
        Some(LedgerSnapshot::parse(text.as_bytes()).unwrap())
    }

    pub(crate) fn file(&self, process: Arc<AtomicBool>, fault: Option<Fault>) -> Box<dyn Store> {
        Box::new(File {
            machine: self.clone(),
            process,
            fault,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

// === impl File ===

impl Store for File {
    fn save(&mut self, record: &LedgerSnapshot) {
        if !self.process.load(Ordering::Relaxed) {
            return;
        }
        let mut state = self.machine.state();
        let record = Some(record.clone());
        if self.fault == Some(Fault::WrittenLate) {
            state.disk = mem::replace(&mut state.late, record);
        } else {
            state.disk = record;
        }
    }
}
