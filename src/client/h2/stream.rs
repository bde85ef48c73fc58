//! A place for one request on a shared connection.

use std::{
    convert::Infallible,
    future::Future,
    io::IoSlice,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::{body::Incoming, client::conn::TrySendError};

use super::{Sender, Shared};
use crate::client::{exchange::UpstreamRequest, last_use::LastUse};

/// A reserved stream. Dropping it frees its place at once.
pub(in crate::client) struct Stream {
    sender: Sender,
    place: Place,
}

/// A stream in use: it counts until the request's body is sent and the response's has ended.
pub(in crate::client) struct OpenStream(Arc<OpenPlace>);

/// The body of a request.
pub(in crate::client) struct RequestBody {
    body: Full<Bytes>,
    stream: Arc<OpenPlace>,
}

/// The data of a request's body. hyper passes all of it to h2 at once, and h2 keeps what the server's
/// window does not take yet: until then the stream is open, even if the response has ended.
pub(in crate::client) struct RequestData {
    bytes: Bytes,
    _stream: Arc<OpenPlace>,
}

/// One of the streams that are counted.
struct Place(Arc<Shared>);

/// A place in use.
struct OpenPlace(Place);

// === impl Stream ===

impl Stream {
    /// A stream that has been counted.
    pub(super) fn new(sender: Sender, shared: Arc<Shared>) -> Self {
        Self {
            sender,
            place: Place(shared),
        }
    }

    /// Whether a request may be sent.
    pub(in crate::client) fn is_usable(&self) -> bool {
        let state = self.place.0.state.lock();
        !state.is_closing
            && !self.sender.is_closed()
            && state.streams <= state.limit
            && state.may_be_used(&LastUse::now())
    }

    /// Passes `request` to the connection's task.
    pub(in crate::client) fn send(
        mut self,
        request: UpstreamRequest,
    ) -> (
        OpenStream,
        impl Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>>,
    ) {
        self.place.0.state.lock().in_use += 1;
        let place = Arc::new(OpenPlace(self.place));
        let request = request.map(|body| RequestBody {
            body,
            stream: Arc::clone(&place),
        });
        (OpenStream(place), self.sender.try_send_request(request))
    }
}

// === impl OpenStream ===

impl OpenStream {
    /// Response headers came, so the server's SETTINGS came before.
    pub(in crate::client) fn answered(&self) {
        let shared = &self.0.0.0;
        let mut state = shared.state.lock();
        if !state.is_limit_known {
            state.is_limit_known = true;
            drop(state);
            shared.changed.notify_waiters();
        }
    }

    /// Sends no further request on the connection.
    pub(in crate::client) fn close_connection(&self) {
        self.0.0.0.close();
    }
}

// === impl Place ===

impl Drop for Place {
    fn drop(&mut self) {
        self.0.state.lock().streams -= 1;
        self.0.changed.notify_one();
    }
}

// === impl OpenPlace ===

impl Drop for OpenPlace {
    fn drop(&mut self) {
        let mut state = self.0.0.state.lock();
        state.in_use -= 1;
        if state.in_use == 0 {
            state.last_use = LastUse::now();
        }
    }
}

// === impl RequestBody ===

impl Body for RequestBody {
    type Data = RequestData;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<RequestData>, Infallible>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let data = |bytes| RequestData {
            bytes,
            _stream: Arc::clone(&self.stream),
        };
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

// === impl RequestData ===

impl Buf for RequestData {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.bytes.chunks_vectored(slices)
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }

    fn copy_to_bytes(&mut self, length: usize) -> Bytes {
        self.bytes.copy_to_bytes(length)
    }
}
