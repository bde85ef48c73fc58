//! HTTP/1.1: hyper's connection (`hyper::client::conn::http1`), polled by the task that waits for
//! the response and then by the task that reads the body. It has no task of its own, so a chunk
//! costs no task switch.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Response};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1},
};
use tokio::{task::unconstrained, time::Instant};

use super::{
    connections::ConnectionGuard,
    connector::UpstreamStream,
    exchange::{STATUS_LINE, UpstreamRequest},
    last_use::{LastUse, MAX_IDLE},
};

/// One connection: its request sender and its driver. Dropping it closes the connection.
pub(super) struct H1Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    driver: http1::Connection<UpstreamStream, Full<Bytes>>,
    /// When connecting began, until a request gets the connection.
    pub(super) unproven: Option<Instant>,
    /// The last use, or when it was opened.
    pub(super) last_use: LastUse,
    /// How long it may be idle.
    max_idle: Duration,
    _open: ConnectionGuard,
}

/// hyper takes no smaller buffer.
const SMALLEST_BUFFER: usize = 8192;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// How much sooner than announced an upstream is expected to close: a request takes time to get
/// there.
const KEEP_ALIVE_MARGIN: Duration = Duration::from_secs(1);

// === impl H1Connection ===

impl H1Connection {
    /// Prepares `stream`, which has been connecting since `began`, for requests; nothing is written
    /// yet.
    pub(super) async fn new(
        stream: UpstreamStream,
        max_head: usize,
        began: Instant,
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
            unproven: Some(began),
            last_use: LastUse::now(),
            max_idle: MAX_IDLE,
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

    /// Like [`poll_closed`](Self::poll_closed), whatever is left of the task's budget: without one,
    /// tokio's sockets are never ready, so that nothing would be written and no end be seen.
    pub(super) fn poll_closed_unconstrained(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        pin!(unconstrained(poll_fn(|cx| self.poll_closed(cx)))).poll(cx)
    }

    /// Whether a request may be sent. `cx` is woken when that changes, because the upstream closes
    /// the connection.
    pub(super) fn poll_usable(&mut self, cx: &mut Context<'_>) -> bool {
        self.may_be_used(&LastUse::now())
            && self.poll_closed_unconstrained(cx).is_pending()
            && self.sender.is_ready()
    }

    /// Whether it has not been idle for too long.
    pub(super) fn may_be_used(&self, now: &LastUse) -> bool {
        self.last_use.allows(self.max_idle, now)
    }

    /// A response has ended.
    pub(super) fn used(&mut self) {
        self.last_use = LastUse::now();
    }

    /// Obeys a `Keep-Alive` of the upstream: it closes the connection when it has been idle for that
    /// long.
    pub(super) fn read_keep_alive(&mut self, headers: &HeaderMap) {
        if let Some(announced) = keep_alive_timeout(headers) {
            self.max_idle = announced.saturating_sub(KEEP_ALIVE_MARGIN).min(MAX_IDLE);
        }
    }
}

/// The `timeout` of a `Keep-Alive` header.
fn keep_alive_timeout(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(KEEP_ALIVE).iter();
    let mut parameters = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|parameter| parameter.split_once('='));
    let (_, seconds) = parameters.find(|(name, _)| name.trim().eq_ignore_ascii_case("timeout"))?;
    let seconds = seconds.trim().trim_matches('"').parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeout_is_found_among_the_parameters_of_keep_alive() {
        for (values, seconds) in [
            (&["timeout=5"][..], Some(5)),
            (&["max=100, Timeout = 5"], Some(5)),
            (&["max=100", "timeout=\"7\""], Some(7)),
            (&["timeout=0"], Some(0)),
            (&["max=100"], None),
            (&["timeout=-1"], None),
            (&["timeout=soon"], None),
            (&["timeout"], None),
            (&[], None),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(KEEP_ALIVE, value.parse().unwrap());
            }
            let found = keep_alive_timeout(&headers).map(|found| found.as_secs());
            assert_eq!(found, seconds, "{values:?}");
        }
    }
}
