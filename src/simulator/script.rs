//! The body of a response: what is sent, when, and how it ends.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{self, Sleep};

use super::{
    connection::ConnectionHandle,
    record::{PendingArrival, ResponseEnd},
};

/// One step of a body.
#[derive(Debug)]
pub(super) enum BodyStep {
    /// Closes the connection without the last chunk.
    Abort,
    /// Sends these bytes as one chunk.
    Data(Bytes),
    /// Resets the connection.
    Reset,
    /// Sends nothing more and keeps the connection open.
    Stall,
    /// Waits before the next step.
    Wait(Duration),
}

/// All steps of a body, before it belongs to a request.
pub(super) struct BodySteps {
    /// The `content-length`, if there is one.
    length: Option<u64>,
    steps: Box<dyn Iterator<Item = BodyStep> + Send>,
}

/// A body that runs its steps and records how it ended.
pub(super) struct ScriptedBody {
    arrival: PendingArrival,
    connection: Arc<ConnectionHandle>,
    remaining: Option<u64>,
    steps: Box<dyn Iterator<Item = BodyStep> + Send>,
    wait: Option<Pin<Box<Sleep>>>,
}

/// Chunk size of a plain body: as large as a TLS record, so that a client that leaves is noticed
/// between two chunks.
const SLICE: usize = 16 * 1024;

/// Pause before the connection is closed, so that earlier chunks are on the wire.
const FLUSH: Duration = Duration::from_millis(10);

// === impl BodySteps ===

impl BodySteps {
    /// A body of known length.
    pub(super) fn fixed(bytes: impl Into<Bytes>) -> Self {
        let mut rest = bytes.into();
        let length = Some(rest.len() as u64);
        let steps = std::iter::from_fn(move || {
            let slice = rest.split_to(rest.len().min(SLICE));
            (!slice.is_empty()).then_some(BodyStep::Data(slice))
        });
        Self {
            length,
            steps: Box::new(steps),
        }
    }

    /// A body without a `content-length`.
    pub(super) fn streamed(steps: impl Iterator<Item = BodyStep> + Send + 'static) -> Self {
        Self {
            length: None,
            steps: Box::new(steps),
        }
    }

    /// The first `chunks` chunks, then `last` and nothing else.
    pub(super) fn cut(self, chunks: usize, last: Option<BodyStep>) -> Self {
        let mut left = chunks;
        let kept = self.steps.map_while(move |step| {
            if matches!(step, BodyStep::Data(_)) {
                left = left.checked_sub(1)?;
            }
            Some(step)
        });
        Self::streamed(kept.chain([BodyStep::Wait(FLUSH)]).chain(last))
    }
}

impl fmt::Debug for BodySteps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodySteps")
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

// === impl ScriptedBody ===

impl ScriptedBody {
    pub(super) fn new(
        steps: BodySteps,
        arrival: PendingArrival,
        connection: Arc<ConnectionHandle>,
    ) -> Self {
        let mut body = Self {
            arrival,
            connection,
            remaining: steps.length,
            steps: steps.steps,
            wait: None,
        };
        body.finish_if_sent();
        body
    }

    /// Sends nothing more; the body is dropped with its connection.
    fn fall_silent(&mut self) {
        self.wait = Some(Box::pin(time::sleep(Duration::MAX)));
    }

    /// hyper does not poll a body of known length past its last byte, so that byte is its end.
    fn finish_if_sent(&mut self) {
        if self.remaining == Some(0) {
            self.arrival.finish(ResponseEnd::Completed);
        }
    }
}

impl Body for ScriptedBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        loop {
            if let Some(wait) = &mut self.wait {
                ready!(wait.as_mut().poll(cx));
                self.wait = None;
            }
            match self.steps.next() {
                Some(BodyStep::Data(bytes)) => {
                    self.arrival.body_sent(&bytes);
                    if let Some(remaining) = &mut self.remaining {
                        *remaining = remaining.saturating_sub(bytes.len() as u64);
                    }
                    self.finish_if_sent();
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Some(BodyStep::Wait(delay)) => self.wait = Some(Box::pin(time::sleep(delay))),
                Some(BodyStep::Stall) => self.fall_silent(),
                Some(BodyStep::Reset) => {
                    self.arrival.finish(ResponseEnd::Aborted);
                    self.connection.reset();
                    // hyper may poll once more before the connection's task sees the reset.
                    self.fall_silent();
                }
                Some(BodyStep::Abort) => {
                    self.arrival.finish(ResponseEnd::Aborted);
                    return Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into())));
                }
                None => {
                    self.arrival.finish(ResponseEnd::Completed);
                    return Poll::Ready(None);
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.remaining
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
