//! HTTP/1.1: hyper's connection (`hyper::client::conn::http1`), polled by the task that waits for
//! the response and then by the task that reads the body. It has no task of its own, so a chunk
//! costs no task switch.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1},
};

use super::{
    connections::ConnectionGuard,
    connector::UpstreamStream,
    exchange::{STATUS_LINE, UpstreamRequest},
};

/// One connection: its request sender and its driver. Dropping it closes the connection.
pub(super) struct H1Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    driver: http1::Connection<UpstreamStream, Full<Bytes>>,
    _open: ConnectionGuard,
}

/// hyper takes no smaller buffer.
const SMALLEST_BUFFER: usize = 8192;

// === impl H1Connection ===

impl H1Connection {
    /// Prepares `stream` for requests; nothing is written yet.
    pub(super) async fn new(
        stream: UpstreamStream,
        max_head: usize,
        open: ConnectionGuard,
    ) -> hyper::Result<Box<Self>> {
        let (sender, driver) = http1::Builder::new()
            // Response headers have to fit into the buffer whole.
            .max_buf_size(max_head.saturating_add(STATUS_LINE).max(SMALLEST_BUFFER))
            .handshake(stream)
            .await?;
        Ok(Box::new(Self {
            sender,
            driver,
            _open: open,
        }))
    }

    /// Queues `request`. Polling the connection sends it.
    pub(super) fn send(
        &mut self,
        request: UpstreamRequest,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<UpstreamRequest>>> + use<>
    {
        self.sender.try_send_request(request)
    }

    /// Drives the connection. Ready once it has ended, for any reason: the task that waits for a
    /// response or a body gets the error.
    pub(super) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.driver).poll(cx).map(drop)
    }

    /// Whether another request may be sent. The poll also notices that the upstream has closed the
    /// connection. It wakes no task: an idle connection belongs to none.
    pub(super) fn is_reusable(&mut self) -> bool {
        let cx = &mut Context::from_waker(Waker::noop());
        self.poll_closed(cx).is_pending() && self.sender.is_ready()
    }
}
