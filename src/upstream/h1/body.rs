//! The body of a response: reading it is what moves its connection.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use pacegate_layers::error::BoxError;

use super::{Connection, Violation, framing::Framing};
use crate::upstream::{
    error::{IdleTimeout, Truncated},
    pool::Pool,
};

/// A body in progress. What one read brings goes on as one frame, as far as its chunks fit into one.
///
/// # Cancel safety
///
/// Dropping a body that has not ended closes its connection at once.
pub(in crate::upstream) struct Body {
    /// Gone once it is over, or idle again.
    connection: Option<Box<Connection>>,
    framing: Framing,
    pool: Arc<Pool>,
}

// === impl Body ===

impl Body {
    pub(super) fn new(
        connection: Option<Box<Connection>>,
        framing: Framing,
        pool: Arc<Pool>,
    ) -> Self {
        let mut this = Self {
            connection,
            framing,
            pool,
        };
        // Nobody is going to poll a body that is empty.
        if this.framing.has_ended() {
            this.release();
        }
        this
    }

    /// The data at hand, empty if there is none. At the end the connection is let go of.
    fn decode(&mut self) -> Result<Bytes, Violation> {
        let Some(connection) = &mut self.connection else {
            return Ok(Bytes::new());
        };
        let data = self.framing.decode(&mut connection.unread)?;
        if !data.is_empty() {
            connection.on_passed_on();
        }
        if self.framing.has_ended() {
            self.release();
        }
        Ok(data)
    }

    /// The body has ended cleanly: its connection may serve another request.
    fn release(&mut self) {
        if let Some(mut connection) = self.connection.take()
            && connection.is_reusable()
        {
            connection.rest();
            self.pool.put(connection);
        }
    }

    /// Whether more has come. False at the end.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, BoxError>> {
        let Some(connection) = &mut self.connection else {
            return Poll::Ready(Ok(false));
        };
        Poll::Ready(match ready!(connection.poll_body(cx)) {
            Ok(true) => Ok(true),
            Ok(false) if self.framing == Framing::UntilClose => {
                self.connection = None;
                Ok(false)
            }
            Ok(false) => Err(Truncated(None).into()),
            Err(Some(error)) => Err(Truncated(Some(error.into())).into()),
            Err(None) => Err(IdleTimeout(connection.limits.idle_timeout).into()),
        })
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let error = loop {
            match this.decode() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Err(violation) => break Truncated(Some(violation.into())).into(),
            }
            match ready!(this.poll_more(cx)) {
                Ok(true) => {}
                Ok(false) => {
                    let trailers = this.framing.take_trailers();
                    return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
                }
                Err(error) => break error,
            }
        };
        this.connection = None;
        Poll::Ready(Some(Err(error)))
    }

    fn is_end_stream(&self) -> bool {
        self.connection.is_none() && !self.framing.has_trailers()
    }

    fn size_hint(&self) -> SizeHint {
        match self.framing {
            _ if self.connection.is_none() => SizeHint::with_exact(0),
            Framing::Length(left) => SizeHint::with_exact(left),
            Framing::Chunked(_) | Framing::UntilClose => SizeHint::default(),
        }
    }
}
