//! An upstream whose record can be trusted: it runs on a thread of its own, and knows when it, or the
//! machine, was late.

use std::{
    sync::{Arc, Mutex, OnceLock},
    thread,
    time::Duration,
};

use pacegate::simulator::{Options, Simulator};
use tokio::{
    runtime::{Builder, Runtime},
    time::{self, Instant},
};

use super::promise::Seen;

/// A simulator and what watches it.
pub(super) struct Recorder {
    runtime: Option<Runtime>,
    simulator: Simulator,
    stalls: Stalls,
}

/// When something that was due came late.
#[derive(Clone, Default)]
struct Stalls {
    found: Arc<Mutex<Vec<Stall>>>,
}

#[derive(Clone, Copy)]
struct Stall {
    /// When the tick was due.
    due: Instant,
    came: Instant,
}

/// How often to look.
const TICK: Duration = Duration::from_millis(2);

/// tokio's timers round up to a millisecond, and are no later than this on a calm machine.
const USUAL: Duration = Duration::from_millis(2);

/// How long after a stall an arrival may still be late because of it.
const AFTER: Duration = Duration::from_millis(5);

// === impl Recorder ===

impl Recorder {
    pub(super) async fn start(options: Options) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let simulator = runtime.spawn(Simulator::start(options)).await;
        Stalls::of_machine();
        let stalls = Stalls::default();
        runtime.spawn(stalls.clone().tick());
        Self {
            runtime: Some(runtime),
            simulator: simulator.unwrap().unwrap(),
            stalls,
        }
    }

    pub(super) fn simulator(&self) -> &Simulator {
        &self.simulator
    }

    /// The requests so far.
    pub(super) fn record(&self) -> Vec<Seen> {
        let machine = Stalls::of_machine();
        let start = self.simulator.record_start();
        let arrivals = self.simulator.arrivals().into_iter().map(|arrival| {
            let at = Duration::from_micros(arrival.at_us);
            Seen {
                at,
                done: arrival.done_us.map(Duration::from_micros),
                late: self.stalls.late(start + at).max(machine.late(start + at)),
            }
        });
        arrivals.collect()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // A runtime that is dropped waits, which a test's own runtime does not allow.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

// === impl Stalls ===

impl Stalls {
    /// When all processes were late, from the first call to the end of this process.
    fn of_machine() -> &'static Self {
        static MACHINE: OnceLock<Stalls> = OnceLock::new();
        MACHINE.get_or_init(|| {
            let stalls = Self::default();
            let ticking = stalls.clone();
            thread::spawn(move || {
                loop {
                    let due = Instant::now() + TICK;
                    thread::sleep(TICK);
                    ticking.came(due);
                }
            });
            stalls
        })
    }

    /// By how much what was seen at `at` may have been late.
    fn late(&self, at: Instant) -> Duration {
        let found = self.found.lock().unwrap();
        let near = found
            .iter()
            .filter(|stall| stall.due <= at && at <= stall.came + AFTER);
        let late = near.map(|stall| at.min(stall.came) - stall.due);
        late.max().unwrap_or_default()
    }

    async fn tick(self) {
        loop {
            let due = Instant::now() + TICK;
            time::sleep_until(due).await;
            self.came(due);
        }
    }

    fn came(&self, due: Instant) {
        let came = Instant::now();
        if came > due + USUAL {
            self.found.lock().unwrap().push(Stall { due, came });
        }
    }
}
