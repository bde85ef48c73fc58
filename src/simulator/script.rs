//! The body of an answer: what is sent, when, and how it ends.

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
    record::{Open, Outcome},
    wire::Line,
};

/// One thing that a body does.
#[derive(Debug)]
pub(super) enum Step {
    /// Ends it without ending it: no final chunk, the connection is closed.
    Abort,
    /// Sends bytes, as a chunk of their own.
    Data(Bytes),
    /// Resets the connection.
    Reset,
    /// Says nothing more and keeps the connection.
    Stall,
    /// Says nothing for a while.
    Wait(Duration),
}

/// Everything that a body does, before it is tied to a request.
pub(super) struct Steps {
    /// The length, when it is to be announced.
    length: Option<u64>,
    steps: Box<dyn Iterator<Item = Step> + Send>,
}

/// A body that performs its steps and tells the record how it went.
pub(super) struct Script {
    entry: Open,
    line: Arc<Line>,
    remaining: Option<u64>,
    steps: Box<dyn Iterator<Item = Step> + Send>,
    wait: Option<Pin<Box<Sleep>>>,
}

/// Chunks of a body that was not made of chunks: as large as a TLS record, so that a client that
/// leaves is noticed between two.
const SLICE: usize = 16 * 1024;

/// Pause before the connection goes down, so that what came before is on the wire.
const FLUSH: Duration = Duration::from_millis(10);

// === impl Steps ===

impl Steps {
    /// A body of known length.
    pub(super) fn fixed(bytes: impl Into<Bytes>) -> Self {
        let mut rest = bytes.into();
        let length = Some(rest.len() as u64);
        let steps = std::iter::from_fn(move || {
            let slice = rest.split_to(rest.len().min(SLICE));
            (!slice.is_empty()).then_some(Step::Data(slice))
        });
        Self {
            length,
            steps: Box::new(steps),
        }
    }

    /// A body whose length nobody is told.
    pub(super) fn streamed(steps: impl Iterator<Item = Step> + Send + 'static) -> Self {
        Self {
            length: None,
            steps: Box::new(steps),
        }
    }

    /// The first `chunks` chunks, then `last` and nothing else.
    pub(super) fn cut(self, chunks: usize, last: Option<Step>) -> Self {
        let mut left = chunks;
        let kept = self.steps.map_while(move |step| {
            if matches!(step, Step::Data(_)) {
                left = left.checked_sub(1)?;
            }
            Some(step)
        });
        Self::streamed(kept.chain([Step::Wait(FLUSH)]).chain(last))
    }
}

impl fmt::Debug for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steps")
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

// === impl Script ===

impl Script {
    pub(super) fn new(steps: Steps, entry: Open, line: Arc<Line>) -> Self {
        let mut script = Self {
            entry,
            line,
            remaining: steps.length,
            steps: steps.steps,
            wait: None,
        };
        script.finish_if_sent();
        script
    }

    /// Nothing more will come; the body goes when its connection does.
    fn fall_silent(&mut self) {
        self.wait = Some(Box::pin(time::sleep(Duration::MAX)));
    }

    /// hyper asks a body of known length for nothing past its last byte, so that is its end.
    fn finish_if_sent(&mut self) {
        if self.remaining == Some(0) {
            self.entry.finish(Outcome::Completed);
        }
    }
}

impl Body for Script {
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
                Some(Step::Data(bytes)) => {
                    self.entry.sent(&bytes);
                    if let Some(remaining) = &mut self.remaining {
                        *remaining = remaining.saturating_sub(bytes.len() as u64);
                    }
                    self.finish_if_sent();
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Some(Step::Wait(delay)) => self.wait = Some(Box::pin(time::sleep(delay))),
                Some(Step::Stall) => self.fall_silent(),
                Some(Step::Reset) => {
                    self.entry.finish(Outcome::Aborted);
                    self.line.reset();
                    // hyper may ask once more before the connection's task sees the reset.
                    self.fall_silent();
                }
                Some(Step::Abort) => {
                    self.entry.finish(Outcome::Aborted);
                    return Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into())));
                }
                None => {
                    self.entry.finish(Outcome::Completed);
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
