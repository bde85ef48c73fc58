//! The task of a shared connection.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use hyper::{client::conn::http2, rt::Executor};
use parking_lot::Mutex;
use tokio::time::{Sleep, sleep_until};
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::{INITIAL_LIMIT, RequestBody, Shared};
use crate::client::{connections::ConnectionGuard, connector::UpstreamStream, last_use::LastUse};

/// Drives a connection, and tells when it allows more streams, fewer, or none.
///
/// hyper splits a connection in two: one future takes requests and knows the limit, but is not
/// polled when that changes; the other one, which it gives to the executor, reads and writes. One
/// task polls both: a request is written in the poll that takes it, and SETTINGS and GOAWAY show in
/// the poll that reads them.
pub(super) struct Driver {
    /// None once no further request can be taken.
    requests: Option<Requests>,
    /// None once it has ended.
    frames: Option<Frames>,
    shared: Arc<Shared>,
    limit: usize,
    expiry: Pin<Box<Sleep>>,
    _open: ConnectionGuard,
}

/// Takes requests.
type Requests = http2::Connection<UpstreamStream, RequestBody, TaskExecutor>;

/// Reads and writes frames.
type Frames = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs hyper's tasks on the client's tracker, except for the first: that is the half of the
/// connection that the driver polls itself.
#[derive(Clone)]
pub(super) struct TaskExecutor {
    tasks: TaskTracker,
    first: Arc<Mutex<First>>,
}

enum First {
    Awaited,
    Kept(Frames),
    Taken,
}

// === impl Driver ===

impl Driver {
    /// The task of the connection that takes `requests` and was made on `executor`.
    pub(super) fn new(
        requests: Requests,
        executor: &TaskExecutor,
        shared: Arc<Shared>,
        open: ConnectionGuard,
    ) -> Self {
        Self {
            requests: Some(requests),
            frames: executor.take_first(),
            shared,
            limit: INITIAL_LIMIT,
            expiry: Box::pin(sleep_until(LastUse::now().expires())),
            _open: open,
        }
    }

    fn poll_requests(&mut self, cx: &mut Context<'_>) {
        if let Some(requests) = &mut self.requests
            && let Poll::Ready(outcome) = Pin::new(requests).poll(cx)
        {
            if let Err(error) = outcome {
                debug!(%error, "HTTP/2 connection to the upstream takes no more requests");
            }
            self.close();
        }
    }

    fn poll_frames(&mut self, cx: &mut Context<'_>) {
        if let Some(frames) = &mut self.frames
            && frames.as_mut().poll(cx).is_ready()
        {
            self.frames = None;
        }
    }

    fn poll_expiry(&mut self, cx: &mut Context<'_>) {
        while self.requests.is_some() && self.expiry.as_mut().poll(cx).is_ready() {
            match self.shared.close_if_expired() {
                Ok(()) => self.close(),
                Err(again) => self.expiry.as_mut().reset(again),
            }
        }
    }

    fn close(&mut self) {
        self.shared.close();
        // hyper hands back the requests that it has not taken.
        self.requests = None;
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.poll_expiry(cx);
        this.poll_requests(cx);
        this.poll_frames(cx);
        // What was read may have ended the connection, or changed its limit.
        this.poll_requests(cx);
        match &this.requests {
            Some(requests) => {
                let limit = requests.current_max_send_streams();
                if limit != this.limit {
                    this.limit = limit;
                    this.shared.set_limit(limit);
                }
                Poll::Pending
            }
            None if this.frames.is_none() => Poll::Ready(()),
            None => Poll::Pending,
        }
    }
}

// === impl TaskExecutor ===

impl TaskExecutor {
    pub(super) fn new(tasks: TaskTracker) -> Self {
        Self {
            tasks,
            first: Arc::new(Mutex::new(First::Awaited)),
        }
    }

    fn take_first(&self) -> Option<Frames> {
        match std::mem::replace(&mut *self.first.lock(), First::Taken) {
            First::Kept(frames) => Some(frames),
            First::Awaited | First::Taken => None,
        }
    }
}

impl<F> Executor<F> for TaskExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        let mut first = self.first.lock();
        if matches!(*first, First::Awaited) {
            *first = First::Kept(Box::pin(future));
        } else {
            drop(first);
            self.tasks.spawn(future);
        }
    }
}
