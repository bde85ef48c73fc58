//! HTTP/2: one connection per origin, shared by all requests and driven by tasks of the client.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::Full;
use hyper::{client::conn::http2, rt::Executor};
use hyper_util::rt::TokioTimer;
use pacegate_layers::header_align::is_hop_by_hop;
use parking_lot::Mutex;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::{connections::ConnectionGuard, connector::UpstreamStream};

/// Sends requests on a shared connection. The connection ends once all senders are dropped and the
/// last response body has ended.
pub(super) type Sender = http2::SendRequest<Full<Bytes>>;

/// A shared connection needs probes: if a firewall has silently forgotten it, every request would
/// wait for its head time-out.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// How much of one response may be buffered unread. At a round trip of 100 ms it allows 5 MB/s.
const STREAM_WINDOW: u32 = 512 * 1024;

/// Limit for all unread data of a connection. h2 counts the bytes that each small unread DATA frame
/// is short of 256, and closes the connection when the sum exceeds half of this window
/// (`data_frame_budget`). Token streams consist of such frames, so the window is large. Memory is
/// limited per stream. Go's client has the same value.
const CONNECTION_WINDOW: u32 = 1 << 30;

/// The shared connection, if any.
#[derive(Default)]
pub(super) struct SharedConnection(Mutex<Option<Sender>>);

/// Runs hyper's tasks on the client's tracker.
#[derive(Clone)]
struct TaskExecutor(TaskTracker);

// === impl SharedConnection ===

impl SharedConnection {
    pub(super) fn current(&self) -> Option<Sender> {
        let mut current = self.0.lock();
        current.take_if(|sender| sender.is_closed());
        current.clone()
    }

    pub(super) fn replace(&self, sender: Sender) {
        *self.0.lock() = Some(sender);
    }
}

/// Begins HTTP/2 on `stream` and leaves the connection to a task on `tasks`.
pub(super) async fn handshake(
    stream: UpstreamStream,
    max_head: usize,
    open: ConnectionGuard,
    tasks: &TaskTracker,
) -> hyper::Result<Sender> {
    let (sender, connection) = http2::Builder::new(TaskExecutor(tasks.clone()))
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(max_head).unwrap_or(u32::MAX))
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .handshake(stream)
        .await?;
    tasks.spawn(async move {
        let _open = open;
        if let Err(error) = connection.await {
            debug!(%error, "HTTP/2 connection to the upstream ended");
        }
    });
    Ok(sender)
}

/// `headers` without those that HTTP/2 forbids ([RFC 9113 §8.2.2]) or replaces (`host`, §8.3.1),
/// the others in order. (`HeaderMap::remove` would move the last header into the gap.)
///
/// [RFC 9113 §8.2.2]: https://www.rfc-editor.org/rfc/rfc9113#section-8.2.2
pub(super) fn without_connection_fields(headers: HeaderMap) -> HeaderMap {
    let mut remaining = HeaderMap::with_capacity(headers.len());
    let mut name = None;
    for (next, value) in headers {
        // Only the first of several values comes with its name.
        name = next.or(name);
        if let Some(name) = &name
            && !(is_hop_by_hop(name) || name == header::HOST)
        {
            remaining.append(name, value);
        }
    }
    remaining
}

// === impl TaskExecutor ===

impl<F> Executor<F> for TaskExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http1_headers_are_dropped_and_the_others_keep_their_order() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("host", "h"),
            ("a", "1"),
            ("connection", "keep-alive"),
            ("b", "2"),
            ("te", "trailers"),
            ("c", "3"),
        ] {
            headers.append(http::HeaderName::from_static(name), value.parse().unwrap());
        }
        headers.append("b", "4".parse().unwrap());
        let remaining = without_connection_fields(headers);
        let remaining: Vec<_> = remaining
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        assert_eq!(remaining, [("a", "1"), ("b", "2"), ("b", "4"), ("c", "3")]);
    }
}
