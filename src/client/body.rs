//! The body of a response over either HTTP version.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pacegate_layers::error::BoxError;

use super::{
    error::{IdleTimeout, Truncated},
    exchange::ResponseHead,
    h1::H1Connection,
    h2::OpenStream,
    pool::Pool,
};
use crate::idle_timer::IdleTimer;

/// A streaming response body.
///
/// A body that ends before its framing says so, breaks or falls silent yields an error after the
/// data that arrived, never a clean end. Over HTTP/1.1, reading the body drives its connection.
///
/// # Cancel safety
///
/// Dropping a body that has not ended closes its HTTP/1.1 connection, or resets its HTTP/2 stream,
/// at once.
pub struct ResponseBody {
    incoming: Incoming,
    source: BodySource,
    /// No frame follows.
    ended: bool,
    timer: IdleTimer,
    idle_timeout: Duration,
}

/// What drives the connection.
enum BodySource {
    /// This body's own polls. The connection is gone once it has ended or is idle again.
    H1(Option<Box<H1Connection>>, Arc<Pool>),
    /// The task of the shared connection. The stream counts until the body has ended.
    H2(Option<OpenStream>),
}

// === impl ResponseBody ===

impl ResponseBody {
    /// The body that follows `head` over HTTP/1.1; at its end the connection goes to `pool`.
    pub(super) fn over_h1(
        head: ResponseHead,
        pool: Arc<Pool>,
        idle_timeout: Duration,
    ) -> http::Response<Self> {
        let source = BodySource::H1(head.connection, pool);
        Self::new(head.response, source, head.timer, idle_timeout)
    }

    /// The body that follows `head` over HTTP/2, on `stream`.
    pub(super) fn over_h2(
        head: ResponseHead,
        stream: OpenStream,
        idle_timeout: Duration,
    ) -> http::Response<Self> {
        let source = BodySource::H2(Some(stream));
        Self::new(head.response, source, head.timer, idle_timeout)
    }

    fn new(
        response: http::Response<Incoming>,
        source: BodySource,
        timer: IdleTimer,
        idle_timeout: Duration,
    ) -> http::Response<Self> {
        response.map(|incoming| {
            let mut body = Self {
                incoming,
                source,
                ended: false,
                timer,
                idle_timeout,
            };
            body.release_at_end();
            body
        })
    }

    /// Releases the connection of a body that will not be polled again.
    fn release_at_end(&mut self) {
        if self.incoming.is_end_stream() {
            self.release();
        }
    }

    /// The body has ended cleanly: its connection may serve another request.
    fn release(&mut self) {
        self.ended = true;
        match &mut self.source {
            BodySource::H1(connection, pool) => {
                // An idle connection belongs to no task that could be woken.
                let cx = &mut Context::from_waker(Waker::noop());
                if let Some(mut connection) = connection.take() {
                    connection.used();
                    if connection.poll_usable(cx) {
                        pool.put(connection);
                    }
                }
            }
            BodySource::H2(stream) => *stream = None,
        }
    }

    /// The body has failed: its HTTP/1.1 connection closes.
    fn fail(&mut self, error: BoxError) -> Option<Result<Frame<Bytes>, BoxError>> {
        self.ended = true;
        if let BodySource::H1(connection, _) = &mut self.source {
            *connection = None;
        }
        Some(Err(error))
    }

    /// The next frame; drives the connection if that is this body's task.
    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let incoming = Pin::new(&mut self.incoming);
        let BodySource::H1(connection @ Some(_), _) = &mut self.source else {
            return incoming.poll_frame(cx);
        };
        // Frames come only from the connection that is polled here, so they need to wake no task.
        let unwoken = &mut Context::from_waker(Waker::noop());
        if let Some(open) = connection
            && open.poll_closed(cx).is_ready()
        {
            *connection = None;
        }
        incoming.poll_frame(unwoken)
    }

    /// Whether the end of `incoming` is the end of the body. hyper also reports an end for an
    /// HTTP/2 stream that was reset with `NO_ERROR` halfway.
    fn is_complete(&self) -> bool {
        match self.source {
            BodySource::H1(..) => {
                let left = self.incoming.size_hint().exact();
                left.is_none_or(|left| left == 0)
            }
            BodySource::H2(_) => self.incoming.is_end_stream(),
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
        if this.ended {
            return Poll::Ready(None);
        }
        let Poll::Ready(next) = this.poll_incoming(cx) else {
            ready!(this.timer.poll_elapsed(this.idle_timeout, cx));
            let error = IdleTimeout(this.idle_timeout);
            return Poll::Ready(this.fail(error.into()));
        };
        this.timer.reset();
        Poll::Ready(match next {
            Some(Ok(frame)) => {
                this.release_at_end();
                Some(Ok(frame))
            }
            Some(Err(error)) => this.fail(Truncated(Some(error.into())).into()),
            None if this.is_complete() => {
                this.release();
                None
            }
            None => this.fail(Truncated(None).into()),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody")
            .field("size_hint", &self.size_hint())
            .finish_non_exhaustive()
    }
}
