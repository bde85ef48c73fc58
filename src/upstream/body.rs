//! The body of a response: reading it is what moves its connection.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pacegate_layers::error::BoxError;
use tokio::time::{Instant, Sleep};

use super::{
    error::{IdleTimeout, Truncated},
    h1::Connection,
    pool::Pool,
};

/// What is ready now is handed on together up to this size: a stream of tokens arrives as dozens
/// of small chunks a packet, and each frame costs a write downstream. It is the size of a TLS
/// record; larger frames gain nothing more.
const COALESCE_LIMIT: usize = 16 * 1024;

/// A streaming response body.
///
/// Data that has arrived already comes as one frame of up to 16 KiB, and nothing ever waits for
/// more. A body that ends before its framing says so, breaks or falls silent is an error after
/// the data that did arrive, never an end.
///
/// # Cancel safety
///
/// Dropping a body that has not ended closes its HTTP/1.1 connection, or resets its HTTP/2 stream,
/// at once.
pub struct ResponseBody {
    incoming: Incoming,
    source: Source,
    /// Whether a frame has been asked for.
    wanted: bool,
    /// What has been read beyond the last frame. An end stays here.
    held: Option<Part>,
    silence: Silence,
}

/// What moves the bytes.
pub(super) enum Source {
    /// Our own polls; the connection is gone once it is over or idle again.
    H1(Option<Box<Connection>>, Arc<Pool>),
    /// The shared connection's task.
    H2,
}

enum Part {
    Data(Bytes),
    End,
    Failed(BoxError),
    Trailers(HeaderMap),
}

/// Measures how long a reader has been waiting.
struct Silence {
    sleep: Pin<Box<Sleep>>,
    limit: Duration,
    since: Option<Instant>,
}

// === impl ResponseBody ===

impl ResponseBody {
    /// A body that is read from `incoming`. `sleep` is the timer that the head was waited for with:
    /// one timer serves a request from start to end.
    pub(super) fn new(
        incoming: Incoming,
        source: Source,
        sleep: Pin<Box<Sleep>>,
        idle_timeout: Duration,
    ) -> Self {
        Self {
            incoming,
            source,
            wanted: false,
            held: None,
            silence: Silence::new(sleep, idle_timeout),
        }
    }

    /// Lets go of the connection of a body that is empty: nobody is going to poll it.
    pub(super) fn settle(&mut self) {
        if self.held.is_none() && self.incoming.is_end_stream() {
            self.release();
            self.held = Some(Part::End);
        }
    }

    /// The next part, whatever its size.
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Part> {
        self.settle();
        if let Some(part) = self.held.take() {
            return Poll::Ready(part);
        }
        Poll::Ready(match ready!(self.poll_incoming(cx)) {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => Part::Data(data),
                Err(frame) => frame.into_trailers().map_or(Part::End, Part::Trailers),
            },
            Some(Err(error)) => self.fail(Truncated(Some(error)).into()),
            None if self.is_complete() => {
                self.release();
                Part::End
            }
            None => self.fail(Truncated(None).into()),
        })
    }

    /// The next frame, moving the connection's bytes if that is for us to do.
    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let mut incoming = Pin::new(&mut self.incoming);
        let Source::H1(connection @ Some(_), _) = &mut self.source else {
            return incoming.poll_frame(cx);
        };
        // Frames come from nowhere but the connection, which is polled right here: to be woken for
        // each would be to be polled twice.
        let unwoken = &mut Context::from_waker(Waker::noop());
        if !std::mem::replace(&mut self.wanted, true) {
            // The connection reads no body before somebody has asked for it.
            let next = incoming.as_mut().poll_frame(unwoken);
            if next.is_ready() {
                return next;
            }
        }
        if let Some(open) = connection
            && open.poll_closed(cx).is_ready()
        {
            *connection = None;
        }
        incoming.poll_frame(unwoken)
    }

    /// `poll_part`, under the idle time-out.
    fn poll_part_in_time(&mut self, cx: &mut Context<'_>) -> Poll<Part> {
        if let Poll::Ready(part) = self.poll_part(cx) {
            self.silence.broken();
            return Poll::Ready(part);
        }
        ready!(self.silence.poll_too_long(cx));
        let error = IdleTimeout(self.silence.limit);
        Poll::Ready(self.fail(error.into()))
    }

    /// `first` and all that is ready now after it, up to the limit.
    fn coalesce(&mut self, first: Bytes, cx: &mut Context<'_>) -> Bytes {
        let mut joined = BytesMut::new();
        while first.len().max(joined.len()) < COALESCE_LIMIT {
            self.look_ahead(cx);
            let Some(Part::Data(data)) = &self.held else {
                break;
            };
            let size = first.len().max(joined.len()) + data.len();
            if size > COALESCE_LIMIT {
                break;
            }
            if joined.is_empty() {
                joined.reserve(COALESCE_LIMIT);
                joined.extend_from_slice(&first);
            }
            joined.extend_from_slice(data);
            self.held = None;
        }
        // A reader that sees the end coming does not poll again.
        self.settle();
        if joined.is_empty() {
            return first;
        }
        joined.freeze()
    }

    /// Holds the next part if it is ready now.
    fn look_ahead(&mut self, cx: &mut Context<'_>) {
        if let Poll::Ready(part) = self.poll_part(cx) {
            self.held = Some(part);
        }
    }

    /// Whether an end of `incoming` is the end of the body. hyper reports one for an HTTP/2 stream
    /// that was reset with `NO_ERROR` halfway, too.
    fn is_complete(&self) -> bool {
        match self.source {
            Source::H1(..) => self
                .incoming
                .size_hint()
                .exact()
                .is_none_or(|left| left == 0),
            Source::H2 => self.incoming.is_end_stream(),
        }
    }

    fn fail(&mut self, error: BoxError) -> Part {
        if let Source::H1(connection, _) = &mut self.source {
            *connection = None;
        }
        Part::Failed(error)
    }

    /// The body has ended cleanly: its connection may serve another request.
    fn release(&mut self) {
        if let Source::H1(connection, pool) = &mut self.source
            && let Some(mut connection) = connection.take()
            && connection.is_reusable()
        {
            pool.put(connection);
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        Poll::Ready(match ready!(this.poll_part_in_time(cx)) {
            Part::Data(data) => Some(Ok(Frame::data(this.coalesce(data, cx)))),
            Part::End => {
                this.held = Some(Part::End);
                None
            }
            Part::Failed(error) => {
                this.held = Some(Part::End);
                Some(Err(error))
            }
            Part::Trailers(trailers) => {
                this.look_ahead(cx);
                Some(Ok(Frame::trailers(trailers)))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.held, Some(Part::End))
    }

    fn size_hint(&self) -> SizeHint {
        let held = match &self.held {
            Some(Part::Data(data)) => data.len() as u64,
            Some(Part::End) => return SizeHint::with_exact(0),
            _ => 0,
        };
        let left = self.incoming.size_hint();
        match left.exact() {
            Some(left) => SizeHint::with_exact(held + left),
            None => {
                let mut hint = SizeHint::new();
                hint.set_lower(held + left.lower());
                hint
            }
        }
    }
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody")
            .field("size_hint", &self.size_hint())
            .finish_non_exhaustive()
    }
}

// === impl Silence ===

impl Silence {
    fn new(mut sleep: Pin<Box<Sleep>>, limit: Duration) -> Self {
        // It may go off too early, see below, but never too late.
        let latest = Instant::now() + limit;
        if sleep.deadline() > latest {
            sleep.as_mut().reset(latest);
        }
        Self {
            sleep,
            limit,
            since: None,
        }
    }

    fn broken(&mut self) {
        self.since = None;
    }

    /// Ready when the wait has been too long. Only time spent waiting counts, so a slow reader is
    /// not taken for a silent upstream.
    fn poll_too_long(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = *self.since.get_or_insert_with(Instant::now) + self.limit;
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            // Moved only when it goes off: doing so for each chunk would cost more than the chunk.
            self.sleep.as_mut().reset(deadline);
        }
    }
}
