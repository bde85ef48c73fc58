//! One client: sends its request, waits, tries again, and leaves when it has had enough.

use std::{
    future::{Future, poll_fn},
    mem,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{Response, StatusCode};
use http_body::Body;
use pacegate_layers::{
    JitterThrottleLayer,
    context::{RequestContext, Session},
    error::{BoxError, NotSent},
    jitter_throttle::PermitBody,
    pacing::{Feedback, Gate, Recovery, Refused},
};
use rand::{SeedableRng, rngs::StdRng};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tower::{Layer, ServiceExt};

use super::{
    log::Event,
    process::Process,
    upstream::{Call, Stream, Upstream},
};
use crate::{
    fault::Fault,
    scenario::{Answer, Request},
};

type Outcome = Result<Response<PermitBody<Stream>>, BoxError>;

/// A client of `process`.
pub(crate) struct Visit {
    pub(crate) process: Arc<Process>,
    pub(crate) index: usize,
    pub(crate) request: Request,
}

impl Visit {
    pub(crate) async fn make(self) {
        let start = self.process.stage.start;
        sleep_until(start + self.request.arrives).await;
        let deadline = self
            .request
            .gives_up
            .map(|patience| Instant::now() + patience);
        let context = RequestContext::of(self.session());
        for (number, attempt) in self.request.attempts.iter().enumerate() {
            let again = number > 0;
            let context = if again && self.fault() == Some(Fault::RetryQueuesAnew) {
                RequestContext::of(self.session())
            } else {
                context.clone()
            };
            let request = self.index;
            self.process.note(Event::Waits { request, again });
            let left = Arc::new(AtomicBool::new(false));
            let call = Call {
                request,
                attempt: *attempt,
                context: context.clone(),
                left: Arc::clone(&left),
            };
            let mut sent = Box::pin(self.send(call));
            let Some(outcome) = within(deadline, sent.as_mut()).await else {
                if !left.load(Ordering::Relaxed) {
                    self.process.note(Event::GivesUp { request });
                    return self.give_up(sent).await;
                }
                // Takes its slot with it, as a client that leaves does.
                return drop(sent);
            };
            match outcome {
                Ok(answer) if answer.status() == StatusCode::TOO_MANY_REQUESTS => {
                    self.refused(&context, attempt.answer);
                    self.free(answer);
                }
                Ok(answer) if answer.status() == StatusCode::FORBIDDEN => {
                    self.exhausted(attempt.answer);
                    return self.free(answer);
                }
                Ok(answer) => {
                    self.process.note(Event::Taken { request });
                    return self.read(answer, attempt.answer, deadline).await;
                }
                Err(error) => {
                    if let Some(why) = error.downcast_ref::<Refused>() {
                        let why = *why;
                        return self.process.note(Event::SentAway { request, why });
                    }
                    let unreached = match self.fault() {
                        // The upstream has not counted it, even if the fault keeps it.
                        Some(Fault::KeepsUnreached | Fault::GivesBackBroken) => {
                            matches!(attempt.answer, Answer::Unreached)
                        }
                        _ => NotSent::in_chain(&*error).is_some(),
                    };
                    if unreached {
                        self.process.note(Event::Unreached { request });
                    }
                }
            }
        }
    }

    fn session(&self) -> Session {
        let shared = self.request.session.to_string();
        if !self.request.is_child {
            return Session::new(shared);
        }
        let own = Session::new(format!("{shared}/{}", self.index));
        match self.fault() {
            Some(Fault::ChildrenAreStrangers) => own,
            _ => own.child_of(shared),
        }
    }

    async fn send(&self, call: Call) -> Outcome {
        let mut gate = self.process.gate.clone();
        if self.fault() == Some(Fault::Race) {
            // Reads the time before it sleeps and writes it after: all see that nobody has left.
            sleep(Duration::from_millis(1)).await;
            gate = Gate::new(Default::default(), StdRng::seed_from_u64(1));
        }
        let mut request = http::Request::new(call);
        let context = request.body().context.clone();
        request.extensions_mut().insert(context);
        JitterThrottleLayer::new(gate)
            .layer(Upstream(Arc::clone(&self.process)))
            .oneshot(request)
            .await
    }

    async fn give_up(&self, sent: Pin<Box<impl Future<Output = Outcome>>>) {
        match self.fault() {
            // It stays in the queue, and nobody polls it.
            Some(Fault::NoWakeOnDrop) => mem::forget(sent),
            Some(Fault::CancelTakesASlot) => {
                drop(sent);
                mem::forget(self.process.gate.acquire(None).await);
            }
            _ => drop(sent),
        }
    }

    fn refused(&self, context: &RequestContext, answer: Answer) {
        let Answer::Refused(pause) = answer else {
            return;
        };
        let (now, gate) = (Instant::now(), &self.process.gate);
        match self.fault() {
            Some(Fault::NoPause) => {}
            Some(Fault::ShortPause) => gate.refused(context, now + pause / 2, Recovery::Same),
            // Every refusal looks like a late one.
            Some(Fault::NoShrink) => {
                gate.refused(&RequestContext::new(), now + pause, Recovery::Same)
            }
            _ => gate.refused(context, now + pause, Recovery::Same),
        }
        self.process.note(Event::Refused {
            request: self.index,
            until: now + pause - self.process.stage.start,
        });
    }

    fn exhausted(&self, answer: Answer) {
        let Answer::Exhausted(pause) = answer else {
            return;
        };
        let until = Instant::now() + pause;
        if self.fault() != Some(Fault::NoEnd) {
            self.process.gate.exhausted(until);
        }
        let until = until - self.process.stage.start;
        self.process.note(Event::Exhausted { until });
    }

    /// Reads to the end, or leaves before.
    async fn read(
        &self,
        mut answer: Response<PermitBody<Stream>>,
        planned: Answer,
        deadline: Option<Instant>,
    ) {
        if self.fault() == Some(Fault::PermitLeaks)
            && let Answer::Taken(streams) = planned
        {
            within(deadline, sleep(streams)).await;
        } else {
            let body = answer.body_mut();
            let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx));
            within(deadline, frame).await;
        }
        self.free(answer);
    }

    fn free(&self, answer: Response<PermitBody<Stream>>) {
        if self.fault() == Some(Fault::PermitLeaks) {
            let request = self.index;
            self.process.note(Event::Freed { request });
            mem::forget(answer);
        }
    }

    fn fault(&self) -> Option<Fault> {
        self.process.stage.fault
    }
}

/// What comes of `future`, unless the client has left before.
async fn within<F: Future>(deadline: Option<Instant>, future: F) -> Option<F::Output> {
    match deadline {
        None => Some(future.await),
        Some(deadline) => timeout_at(deadline, future).await.ok(),
    }
}
