//! The body of a response over HTTP/2; the connection's task moves its bytes.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use pacegate_layers::error::BoxError;

use crate::upstream::{
    error::{IdleTimeout, Truncated},
    patience::Patience,
};

/// What is ready now is handed on together up to this size: each frame costs a write downstream.
const COALESCE_LIMIT: usize = 16 * 1024;

/// A body in progress.
///
/// # Cancel safety
///
/// Dropping a body that has not ended resets its stream.
pub(in crate::upstream) struct Body {
    incoming: Incoming,
    /// What has been read beyond the last frame. An end stays here.
    held: Option<Part>,
    patience: Patience,
    idle_timeout: Duration,
}

enum Part {
    Data(Bytes),
    End,
    Failed(BoxError),
    Trailers(HeaderMap),
}

// === impl Body ===

impl Body {
    pub(in crate::upstream) fn new(
        incoming: Incoming,
        patience: Patience,
        idle_timeout: Duration,
    ) -> Self {
        let mut this = Self {
            incoming,
            held: None,
            patience,
            idle_timeout,
        };
        this.settle();
        this
    }

    /// A reader that sees the end coming does not poll again.
    fn settle(&mut self) {
        if self.held.is_none() && self.incoming.is_end_stream() {
            self.held = Some(Part::End);
        }
    }

    /// The next part, whatever its size.
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Part> {
        self.settle();
        if let Some(part) = self.held.take() {
            return Poll::Ready(part);
        }
        Poll::Ready(match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => Part::Data(data),
                Err(frame) => frame.into_trailers().map_or(Part::End, Part::Trailers),
            },
            Some(Err(error)) => Part::Failed(Truncated(Some(error.into())).into()),
            // hyper reports an end for a stream that was reset with `NO_ERROR` halfway, too.
            None if self.incoming.is_end_stream() => Part::End,
            None => Part::Failed(Truncated(None).into()),
        })
    }

    /// `poll_part`, under the idle time-out.
    fn poll_part_in_time(&mut self, cx: &mut Context<'_>) -> Poll<Part> {
        if let Poll::Ready(part) = self.poll_part(cx) {
            self.patience.rewarded();
            return Poll::Ready(part);
        }
        ready!(self.patience.poll_end(self.idle_timeout, cx));
        Poll::Ready(Part::Failed(IdleTimeout(self.idle_timeout).into()))
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
}

impl http_body::Body for Body {
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
