//! Plays a scenario against the real gate and the real book, and writes down what happened.

use std::{sync::Arc, time::Duration};

use tokio::{
    runtime,
    task::JoinSet,
    time::{Instant, advance, sleep_until, timeout_at},
};

mod log;
mod machine;
mod process;
mod upstream;
mod visit;

pub(crate) use self::log::{Entry, Event, Log};

use self::{
    process::{Process, Stage},
    visit::Visit,
};
use crate::{
    fault::Fault,
    scenario::{Act, Scenario},
};

/// A process, and the clients that it has and will have.
struct Run<'a> {
    scenario: &'a Scenario,
    stage: Arc<Stage>,
    process: Arc<Process>,
    visits: JoinSet<()>,
    restarts: u64,
}

/// Longer than anything that happens in a scenario: who is not gone then, is stuck.
const FOREVER: Duration = Duration::from_secs(400 * 86_400);

pub(crate) fn play(scenario: &Scenario, fault: Option<Fault>) -> Log {
    let runtime = runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    runtime.unwrap().block_on(async {
        let stage = Arc::new(Stage::new(scenario, fault));
        let mut run = Run {
            scenario,
            process: Process::start(scenario, &stage, 0),
            visits: JoinSet::new(),
            stage,
            restarts: 0,
        };
        run.open();
        run.go_through().await;
        let left_over = (run.process.gate.waiting(), run.process.gate.in_flight());
        run.process.stop();
        Log {
            entries: run.stage.take(),
            left_over,
        }
    })
}

impl Run<'_> {
    async fn go_through(&mut self) {
        let start = self.stage.start;
        for upset in &self.scenario.upsets {
            while let Ok(down) = timeout_at(start + upset.at, self.process.death()).await {
                self.restart(down).await;
            }
            match upset.act {
                Act::KillAtDispatch(down) => self.process.die_at_dispatch(down),
                Act::Restart(down) => self.restart(down).await,
                Act::Set(by) => {
                    self.stage.machine.set(by);
                    self.stage.note(Event::Set { by });
                }
            }
        }
        let end = Instant::now() + FOREVER;
        loop {
            tokio::select! {
                biased;
                down = self.process.death() => self.restart(down).await,
                done = self.visits.join_next() => match done {
                    Some(done) => done.unwrap(),
                    None => return,
                },
                () = sleep_until(end) => return,
            }
        }
    }

    /// Kills the process, and starts another one so much later.
    async fn restart(&mut self, down: Duration) {
        self.process.stop();
        self.visits.shutdown().await;
        advance(down).await;
        self.restarts += 1;
        self.process = Process::start(self.scenario, &self.stage, self.restarts);
        self.open();
    }

    /// Sends the requests from now on to this process.
    fn open(&mut self) {
        let now = self.stage.start.elapsed();
        for (index, request) in self.scenario.requests.iter().enumerate() {
            if request.arrives >= now {
                let visit = Visit {
                    process: Arc::clone(&self.process),
                    index,
                    request: request.clone(),
                };
                self.visits.spawn(visit.make());
            }
        }
    }
}
