//! A process: a gate, its book, and an end that may come at any time.

use std::{
    mem,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use pacegate::{config::Per, quotas::QuotaLedger};
use pacegate_layers::pacing::{Gate, Ledger, Window};
use rand::{SeedableRng, rngs::StdRng};
use tokio::{sync::Notify, time::Instant};

use super::{
    log::{Entry, Event},
    machine::Machine,
};
use crate::{fault::Fault, scenario::Scenario};

/// What outlives a process.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) start: Instant,
    pub(crate) machine: Machine,
    pub(crate) fault: Option<Fault>,
    /// What counts wrongly in the place of a book.
    instead: Vec<Arc<dyn Ledger>>,
    entries: Mutex<Vec<Entry>>,
}

#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) stage: Arc<Stage>,
    pub(crate) gate: Gate,
    book: Option<Arc<QuotaLedger>>,
    lives: Arc<AtomicBool>,
    /// If it is to die at its next dispatch: for how long there is none then.
    dying: Mutex<Option<Duration>>,
    died: Notify,
}

// === impl Stage ===

impl Stage {
    pub(crate) fn new(scenario: &Scenario, fault: Option<Fault>) -> Self {
        let machine = Machine::new(scenario.begins);
        Self {
            start: Instant::now(),
            instead: fault.map_or_else(Vec::new, |fault| fault.instead(scenario, &machine.wall())),
            machine,
            fault,
            entries: Mutex::default(),
        }
    }

    /// What has been noted.
    pub(crate) fn take(&self) -> Vec<Entry> {
        mem::take(&mut *self.entries.lock().unwrap())
    }

    pub(crate) fn note(&self, event: Event) {
        let is_kept = matches!(
            event,
            Event::Dispatched { .. } | Event::Started { .. } | Event::Unreached { .. }
        );
        if is_kept {
            self.machine.keep();
        }
        self.entries.lock().unwrap().push(Entry {
            at: self.start.elapsed(),
            seen: self.machine.seen(),
            event,
        });
    }
}

// === impl Process ===

impl Process {
    /// The `number`th of its kind.
    pub(crate) fn start(scenario: &Scenario, stage: &Arc<Stage>, number: u64) -> Arc<Self> {
        let fault = stage.fault;
        let lives = Arc::new(AtomicBool::new(true));
        let mut quotas: Vec<Arc<dyn Ledger>> = Vec::new();
        let mut book = None;
        if scenario.has_book {
            let limits = match fault {
                Some(fault) => fault.limits(scenario),
                None => scenario.quotas.clone(),
            };
            let opened = QuotaLedger::resume(
                "account",
                &limits,
                stage.machine.record(fault),
                Some(stage.machine.file(Arc::clone(&lives), fault)),
                stage.machine.wall(),
            );
            let opened = Arc::new(opened.unwrap());
            quotas.push(Arc::clone(&opened) as Arc<dyn Ledger>);
            book = Some(opened);
        } else if fault != Some(Fault::NoWindow) {
            quotas.extend(scenario.quotas.iter().map(|quota| {
                let Per::Window(per) = quota.per else {
                    panic!("only a book knows the calendar");
                };
                let half = fault == Some(Fault::ShortWindow);
                let per = if half { per / 2 } else { per };
                Arc::new(Window::new(quota.requests, per)) as Arc<dyn Ledger>
            }));
        }
        quotas.extend(stage.instead.iter().cloned());
        let pacing = fault.map_or_else(|| scenario.pacing(), |fault| fault.pacing(scenario));
        let rng = StdRng::seed_from_u64(scenario.seed + number);
        let process = Arc::new(Self {
            stage: Arc::clone(stage),
            gate: Gate::with_ledgers(pacing, quotas, rng),
            book,
            lives,
            dying: Mutex::default(),
            died: Notify::new(),
        });
        let used = process.used();
        process.note(Event::Started { used });
        process
    }

    /// Whatever it does from now on has no consequences.
    pub(crate) fn stop(&self) {
        let used = self.used();
        self.note(Event::Stopped {
            counted: self.gate.dispatched(),
            used,
        });
        if self.lives.swap(false, Ordering::Relaxed) {
            self.stage.machine.killed();
        }
    }

    pub(crate) fn die_at_dispatch(&self, down: Duration) {
        *self.dying.lock().unwrap() = Some(down);
    }

    /// Waits until it has died, and says for how long there is to be none.
    pub(crate) async fn death(&self) -> Duration {
        self.died.notified().await;
        self.dying.lock().unwrap().unwrap_or_default()
    }

    /// One is on its way to the upstream.
    pub(crate) fn dispatched(&self, request: usize) {
        self.note(Event::Dispatched { request });
        if self.dying.lock().unwrap().is_some() {
            self.stop();
            self.died.notify_one();
        }
    }

    pub(crate) fn note(&self, event: Event) {
        if self.lives.load(Ordering::Relaxed) {
            self.stage.note(event);
        }
    }

    /// How much of each quota is used, as the book says.
    fn used(&self) -> Option<Vec<usize>> {
        if self.stage.fault.is_some_and(Fault::hides_usage) {
            return None;
        }
        let usage = self.book.as_ref()?.usage();
        Some(usage.into_iter().map(|usage| usage.used).collect())
    }
}
