//! A response body whose beginning has already been read.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Instant, timeout_at};

pin_project! {
    /// A response body that yields what was read from it for classification, then the rest.
    #[derive(Debug)]
    pub struct PeekedBody<B>
    where
        B: Body,
    {
        read: VecDeque<Result<Frame<B::Data>, B::Error>>,
        #[pin]
        rest: B,
    }
}

impl<B: Body> PeekedBody<B> {
    /// A body of which nothing has been read, also for a stack that omits the layer and keeps its
    /// types.
    pub fn untouched(rest: B) -> Self {
        Self {
            read: VecDeque::new(),
            rest,
        }
    }

    /// Reads until `enough` accepts the data read so far, the body ends or `deadline` passes.
    /// Returns the data read as well.
    pub(super) async fn peek(
        rest: B,
        deadline: Instant,
        enough: fn(&[u8]) -> bool,
    ) -> (Self, Vec<u8>)
    where
        B: Unpin,
    {
        let mut body = Self::untouched(rest);
        let mut beginning = Vec::new();
        while !enough(&beginning) {
            let frame = poll_fn(|cx| Pin::new(&mut body.rest).poll_frame(cx));
            let Ok(Some(frame)) = timeout_at(deadline, frame).await else {
                break;
            };
            let failed = frame.is_err();
            if let Some(data) = frame.as_ref().ok().and_then(Frame::data_ref) {
                beginning.extend_from_slice(data.chunk());
            }
            body.read.push_back(frame);
            if failed {
                break;
            }
        }
        (body, beginning)
    }
}

impl<B: Body> Body for PeekedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.project();
        match this.read.pop_front() {
            Some(frame) => Poll::Ready(Some(frame)),
            None => this.rest.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty() && self.rest.is_end_stream()
    }

    /// A body that will still yield an error has no exact size: a server would take the size for
    /// its end.
    fn size_hint(&self) -> SizeHint {
        if self.read.iter().any(Result::is_err) {
            return SizeHint::default();
        }
        let read: u64 = self
            .read
            .iter()
            .filter_map(|frame| frame.as_ref().ok()?.data_ref())
            .map(|data| data.remaining() as u64)
            .sum();
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(read));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(read));
        }
        hint
    }
}
