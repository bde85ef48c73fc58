//! Plays a scenario against the real gate and writes down what happened, in order.

use std::{
    mem,
    sync::{Arc, Mutex},
    time::Duration,
};

use pacegate_layers::{
    cooldown::{Cooldown, Pace},
    jitter_throttle::{Gate, Quota, Refused, Window},
    progress::Progress,
    session::Session,
};
use rand::{SeedableRng, rngs::StdRng};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout_at},
};

use crate::{
    fault::Fault,
    scenario::{Answer, Request, Scenario},
};

/// What happened, in the order in which it happened.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) events: Vec<(Duration, Event)>,
    /// What the gate itself says when everybody has gone.
    pub(crate) counted: u64,
    pub(crate) left_over: (usize, usize),
}

/// One event; the number is the request's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Comes to the gate, for the first time or again.
    Waits {
        request: usize,
        again: bool,
    },
    /// Was not let into the queue, or sent away from it.
    SentAway {
        request: usize,
        why: Refused,
    },
    /// Left the queue by itself.
    GivesUp {
        request: usize,
    },
    Dispatched {
        request: usize,
    },
    /// The head of an answer came: a refusal, until when.
    Refused {
        request: usize,
        until: Duration,
    },
    /// The head of an answer came, and it was none.
    Taken {
        request: usize,
    },
    /// The slot is free again.
    Freed {
        request: usize,
    },
}

impl Log {
    pub(crate) fn dispatches(&self) -> usize {
        let dispatched = |(_, event): &&_| matches!(event, Event::Dispatched { .. });
        self.events.iter().filter(dispatched).count()
    }
}

/// What the requests of a scenario share.
struct Stage {
    gate: Gate,
    fault: Option<Fault>,
    start: Instant,
    events: Mutex<Vec<(Duration, Event)>>,
}

pub(crate) fn play(scenario: &Scenario, fault: Option<Fault>) -> Log {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let stage = Arc::new(Stage {
            gate: build(scenario, fault),
            fault,
            start: Instant::now(),
            events: Mutex::default(),
        });
        let mut visits = JoinSet::new();
        for (index, request) in scenario.requests.iter().cloned().enumerate() {
            visits.spawn(Arc::clone(&stage).visit(index, request));
        }
        // A day that does not end is a gate that is stuck.
        let midnight = Instant::now() + Duration::from_secs(86_400);
        while let Ok(Some(done)) = timeout_at(midnight, visits.join_next()).await {
            done.unwrap();
        }
        let left_over = (stage.gate.waiting(), stage.gate.in_flight());
        let counted = stage.gate.dispatched();
        drop(visits);
        let events = mem::take(&mut *stage.events.lock().unwrap());
        Log {
            events,
            counted,
            left_over,
        }
    })
}

fn build(scenario: &Scenario, fault: Option<Fault>) -> Gate {
    let windows = scenario.windows.iter().map(|(requests, per)| {
        let per = if fault == Some(Fault::ShortWindow) {
            *per / 2
        } else {
            *per
        };
        Arc::new(Window::new(*requests, per)) as Arc<dyn Quota>
    });
    let windows = match fault {
        Some(Fault::NoWindow) => Vec::new(),
        _ => windows.collect(),
    };
    let pacing = fault.map_or_else(|| scenario.pacing(), |fault| fault.pacing(scenario));
    Gate::with_quotas(pacing, windows, StdRng::seed_from_u64(scenario.seed))
}

impl Stage {
    fn note(&self, event: Event) {
        let at = self.start.elapsed();
        self.events.lock().unwrap().push((at, event));
    }

    async fn visit(self: Arc<Self>, index: usize, request: Request) {
        sleep(request.arrives).await;
        let deadline = request.gives_up.map(|patience| Instant::now() + patience);
        let progress = Progress::new();
        for (attempt, plan) in request.attempts.iter().enumerate() {
            let again = attempt > 0;
            let progress = if again && self.fault == Some(Fault::RetryQueuesAnew) {
                Progress::new()
            } else {
                progress.clone()
            };
            self.note(Event::Waits {
                request: index,
                again,
            });
            let Some(permit) = self.wait(index, &request, &progress, deadline).await else {
                return;
            };
            self.note(Event::Dispatched { request: index });
            if self.fault == Some(Fault::NoProbe) {
                permit.accepted();
            }
            // One that gives up now takes its slot with it, as a client that leaves does.
            if !self.or_gone(sleep(plan.latency), deadline).await {
                self.free(index, permit);
                return;
            }
            match plan.answer {
                Answer::Lost => self.free(index, permit),
                Answer::Taken(streams) => {
                    permit.accepted();
                    self.note(Event::Taken { request: index });
                    self.or_gone(sleep(streams), deadline).await;
                    self.free(index, permit);
                    return;
                }
                Answer::Refused(pause) => {
                    let until = Instant::now() + pause;
                    self.refuse(&progress, until);
                    let until = until - self.start;
                    self.note(Event::Refused {
                        request: index,
                        until,
                    });
                    self.free(index, permit);
                }
            }
        }
    }

    /// A turn, or none: sent away or given up.
    async fn wait(
        &self,
        index: usize,
        request: &Request,
        progress: &Progress,
        deadline: Option<Instant>,
    ) -> Option<pacegate_layers::jitter_throttle::Permit> {
        let mut session = Session::new(format!("{}/{index}", request.session));
        if !request.is_child {
            session = Session::new(request.session.to_string());
        } else if self.fault != Some(Fault::ChildrenAreStrangers) {
            session = session.child_of(request.session.to_string());
        }
        if self.fault == Some(Fault::Race) {
            // Reads the time before its sleep and writes it after: everybody sees the same.
            sleep(Duration::from_millis(700)).await;
            return self.unpaced().await;
        }
        let mut turn = Box::pin(self.gate.acquire(Some(progress.clone()), Some(session)));
        let outcome = match deadline {
            None => Ok(turn.as_mut().await),
            Some(deadline) => timeout_at(deadline, turn.as_mut()).await,
        };
        match outcome {
            Ok(Ok(permit)) => Some(permit),
            Ok(Err(why)) => {
                self.note(Event::SentAway {
                    request: index,
                    why,
                });
                None
            }
            Err(_elapsed) => {
                self.note(Event::GivesUp { request: index });
                match self.fault {
                    // It stays in the queue, and nobody polls it.
                    Some(Fault::NoWakeOnDrop) => mem::forget(turn),
                    Some(Fault::CancelTakesASlot) => drop(turn.await),
                    _ => drop(turn),
                }
                None
            }
        }
    }

    /// A permit of a gate of its own: nothing is paced.
    async fn unpaced(&self) -> Option<pacegate_layers::jitter_throttle::Permit> {
        let gate = Gate::new(Default::default(), StdRng::seed_from_u64(1));
        gate.acquire(None, None).await.ok()
    }

    /// Whether the client was still there at the end of `wait`.
    async fn or_gone(&self, wait: impl Future<Output = ()>, deadline: Option<Instant>) -> bool {
        match deadline {
            None => {
                wait.await;
                true
            }
            Some(deadline) => tokio::select! {
                biased;
                () = sleep_until(deadline) => false,
                () = wait => true,
            },
        }
    }

    fn refuse(&self, progress: &Progress, until: Instant) {
        match self.fault {
            Some(Fault::NoPause) => {}
            Some(Fault::ShortPause) => {
                let half = until.duration_since(Instant::now()) / 2;
                self.gate
                    .refused(progress, Instant::now() + half, Pace::Same);
            }
            // Every refusal looks like a late one.
            Some(Fault::NoShrink) => self.gate.refused(&Progress::new(), until, Pace::Same),
            _ => self.gate.refused(progress, until, Pace::Same),
        }
    }

    fn free(&self, index: usize, permit: pacegate_layers::jitter_throttle::Permit) {
        self.note(Event::Freed { request: index });
        if self.fault == Some(Fault::PermitLeaks) {
            mem::forget(permit);
        }
    }
}
