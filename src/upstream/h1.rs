//! HTTP/1.1, polled by whoever waits for it: first the task that waits for the response head, then
//! the one that reads the body. No task of its own, so no hand-over per chunk.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1},
};

use super::{connect::Stream, exchange::Outgoing};

/// One connection: where requests go in, and the machine that moves the bytes.
pub(super) struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    driver: http1::Connection<Stream, Full<Bytes>>,
    _open: Open,
}

/// Counts a connection as open while it lives.
pub(super) struct Open(Arc<AtomicUsize>);

/// A head has to fit into the buffer whole, with its status line.
const STATUS_LINE: usize = 1024;

/// hyper takes no less.
const LEAST_BUFFER: usize = 8192;

// === impl Connection ===

impl Connection {
    /// Prepares `stream` for requests; nothing is written yet.
    pub(super) async fn new(
        stream: Stream,
        max_head: usize,
        open: Open,
    ) -> hyper::Result<Box<Self>> {
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(max_head.saturating_add(STATUS_LINE).max(LEAST_BUFFER))
            .handshake(stream)
            .await?;
        Ok(Box::new(Self {
            sender,
            driver,
            _open: open,
        }))
    }

    /// Queues `request`; polling the connection sends it, see `exchange::head`.
    pub(super) fn send(
        &mut self,
        request: Outgoing,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Outgoing>>> + use<> {
        self.sender.try_send_request(request)
    }

    /// Moves bytes; ready once the connection is over, for whatever reason.
    pub(super) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Whoever waits for a response or a body is told about errors there.
        Pin::new(&mut self.driver).poll(cx).map(drop)
    }

    /// Whether another request may be sent. It takes a poll to find out, and that also notices a
    /// connection that the other side has closed. Nobody is woken for it: an idle connection is
    /// nobody's, and one that is about to be used will be polled.
    pub(super) fn is_reusable(&mut self) -> bool {
        let unwoken = &mut Context::from_waker(Waker::noop());
        self.poll_closed(unwoken).is_pending() && self.sender.is_ready()
    }
}

// === impl Open ===

impl Open {
    pub(super) fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
