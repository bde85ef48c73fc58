//! The far end: answers as the scenario has it.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame};
use pacegate_layers::{
    context::RequestContext,
    error::{BoxError, NotSent},
    pacing::Feedback,
};
use tokio::time::{Sleep, sleep};
use tower_service::Service;

use super::{log::Event, process::Process};
use crate::{
    fault::Fault,
    scenario::{Answer, Attempt},
};

/// What the gate of `Process` lets through arrives here.
#[derive(Clone, Debug)]
pub(crate) struct Upstream(pub(crate) Arc<Process>);

/// One attempt of a request.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) request: usize,
    pub(crate) attempt: Attempt,
    pub(crate) context: RequestContext,
    /// Whether it has been dispatched.
    pub(crate) left: Arc<AtomicBool>,
}

/// The body of an answer: ends after a while.
#[derive(Debug)]
pub(crate) struct Stream {
    end: Pin<Box<Sleep>>,
    slot: Option<Slot>,
}

/// In flight until dropped.
#[derive(Debug)]
struct Slot {
    process: Arc<Process>,
    request: usize,
}

// === impl Upstream ===

impl Service<Request<Call>> for Upstream {
    type Response = Response<Stream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Call>) -> Self::Future {
        let Call {
            request,
            attempt,
            context,
            left,
        } = request.into_body();
        let process = &self.0;
        left.store(true, Ordering::Relaxed);
        process.dispatched(request);
        let fault = process.stage.fault;
        if fault == Some(Fault::NoProbe) {
            process.gate.accepted(&context);
        }
        let slot = Some(Slot {
            process: Arc::clone(process),
            request,
        });
        Box::pin(async move {
            sleep(attempt.latency).await;
            let (status, streams) = match attempt.answer {
                Answer::Broken if fault == Some(Fault::GivesBackBroken) => return Err(not_sent()),
                Answer::Unreached if fault != Some(Fault::KeepsUnreached) => return Err(not_sent()),
                Answer::Broken | Answer::Unreached => return Err("broken".into()),
                Answer::Exhausted(pause) => (StatusCode::FORBIDDEN, pause),
                Answer::Refused(pause) => (StatusCode::TOO_MANY_REQUESTS, pause),
                Answer::Taken(streams) => (StatusCode::OK, streams),
            };
            let mut response = Response::new(Stream {
                end: Box::pin(sleep(streams)),
                slot,
            });
            *response.status_mut() = status;
            Ok(response)
        })
    }
}

fn not_sent() -> BoxError {
    NotSent("there is no route".into()).into()
}

// === impl Stream ===

impl Body for Stream {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        ready!(self.end.as_mut().poll(cx));
        self.slot = None;
        Poll::Ready(None)
    }
}

// === impl Slot ===

impl Drop for Slot {
    fn drop(&mut self) {
        let request = self.request;
        self.process.note(Event::Freed { request });
    }
}
