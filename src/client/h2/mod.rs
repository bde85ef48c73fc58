//! HTTP/2: connections that requests share, and the streams on them.
//!
//! hyper queues a request for which the server allows no stream yet. No request may wait there,
//! unseen by the gate, so streams are counted here: a [`Stream`] is reserved before a request is
//! sent, and counts until the request's body is sent
//! and the response's has ended. [`driver`] keeps the server's limit up to date.

mod driver;
mod stream;

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, header};
use hyper::client::conn::http2;
use hyper_util::rt::TokioTimer;
use pacegate_layers::header_align::is_hop_by_hop;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};
use tokio_util::task::TaskTracker;

use self::driver::{Driver, TaskExecutor};
pub(super) use self::stream::{OpenStream, RequestBody, Stream};
use super::{connections::ConnectionGuard, connector::UpstreamStream, last_use::LastUse};

/// Sends requests on a shared connection. The connection ends once all senders are dropped and the
/// last response body has ended.
type Sender = http2::SendRequest<RequestBody>;

/// The shared connections to one origin.
#[derive(Default)]
pub(super) struct Connections(Mutex<Vec<Connection>>);

/// One shared connection.
pub(super) struct Connection {
    sender: Sender,
    shared: Arc<Shared>,
    /// When connecting began, until the first stream is reserved.
    unproven: Option<Instant>,
}

/// What a connection, its driver and its streams share.
struct Shared {
    state: Mutex<State>,
    /// Wakes requests that wait for a stream.
    changed: Arc<Notify>,
}

struct State {
    /// How many streams the server allows at a time.
    limit: usize,
    /// Whether `limit` is the server's word, not [`INITIAL_LIMIT`].
    is_limit_known: bool,
    /// Streams reserved or in use.
    streams: usize,
    /// Streams in use.
    in_use: usize,
    /// When the latest stream in use ended, or the connection was opened.
    last_use: LastUse,
    opened: Instant,
    /// No new stream may be reserved.
    is_closing: bool,
}

/// A search for a stream.
pub(super) enum Reservation {
    Reserved {
        stream: Stream,
        /// The connection's first one.
        is_first: bool,
    },
    /// A connection that began to connect then has ended before it was used.
    Ended(Instant),
    Nothing,
}

/// What the open connections allow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Capacity {
    pub(super) connections: usize,
    /// Connections whose limit may still become known within a moment.
    pub(super) young: usize,
    /// When the first of them is no longer young.
    pub(super) young_until: Option<Instant>,
    /// The most streams that one of them allows, if known.
    pub(super) limit: Option<usize>,
    /// There is one that allows no stream, and serves none.
    pub(super) refuses_all: bool,
    /// There is one that allows streams.
    pub(super) is_usable: bool,
}

/// The limit until the server's SETTINGS arrive: the first request need not wait for them.
const INITIAL_LIMIT: usize = 1;

/// SETTINGS are the first that a server sends, so they are there about a round trip after the
/// handshake. For so long a connection with [`INITIAL_LIMIT`] is not called full: a burst on a cold
/// connection is going to fit in. It only delays a burst to a server that allows a single stream.
const SETTINGS_TIME: Duration = Duration::from_millis(100);

/// With open streams, a connection that died without a word ends after this interval and the
/// time-out: everything on it fails within 30 s, instead of at its head time-out.
const PING_INTERVAL: Duration = Duration::from_secs(15);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// How much of one response may be buffered unread. At a round trip of 100 ms it allows 5 MB/s.
const STREAM_WINDOW: u32 = 512 * 1024;

/// Limit for all unread data of a connection. h2 counts the bytes that each small unread DATA frame
/// is short of 256, and closes the connection when the sum exceeds half of this window
/// (`data_frame_budget`). Token streams consist of such frames, so the window is large. Memory is
/// limited per stream. Go's client has the same value.
const CONNECTION_WINDOW: u32 = 1 << 30;

// === impl Connections ===

impl Connections {
    pub(super) fn add(&self, connection: Connection) {
        self.0.lock().push(connection);
    }

    /// Reserves a stream. The oldest connection comes first, so that surplus ones become idle.
    pub(super) fn reserve(&self) -> Reservation {
        let mut connections = self.0.lock();
        if connections.is_empty() {
            return Reservation::Nothing;
        }
        let mut ended = None;
        connections.retain(|connection| {
            let is_closing = connection.shared.state.lock().is_closing;
            if is_closing {
                ended = ended.or(connection.unproven);
            }
            !is_closing
        });
        let now = LastUse::now();
        for connection in connections.iter_mut() {
            if let Some(stream) = connection.reserve(&now) {
                return Reservation::Reserved {
                    stream,
                    is_first: connection.unproven.take().is_some(),
                };
            }
        }
        ended.map_or(Reservation::Nothing, Reservation::Ended)
    }

    pub(super) fn capacity(&self) -> Capacity {
        let now = Instant::now();
        let mut capacity = Capacity::default();
        for connection in self.0.lock().iter() {
            let state = connection.shared.state.lock();
            if state.is_closing {
                continue;
            }
            capacity.connections += 1;
            capacity.is_usable |= state.limit > 0;
            capacity.refuses_all |= state.limit == 0 && state.in_use == 0;
            let young_until = state.opened + SETTINGS_TIME;
            if state.is_limit_known {
                capacity.limit = capacity.limit.max(Some(state.limit));
            } else if now < young_until {
                capacity.young += 1;
                let earliest = capacity.young_until.unwrap_or(young_until);
                capacity.young_until = Some(earliest.min(young_until));
            }
        }
        capacity
    }

    /// Closes all connections once their streams have ended.
    pub(super) fn close(&self) {
        for connection in self.0.lock().drain(..) {
            connection.shared.close();
        }
    }
}

// === impl Connection ===

impl Connection {
    /// Begins HTTP/2 on `stream`, which has been connecting since `began`, and leaves it to a task on
    /// `tasks`.
    pub(super) async fn handshake(
        stream: UpstreamStream,
        max_head: usize,
        began: Instant,
        open: ConnectionGuard,
        tasks: &TaskTracker,
        changed: Arc<Notify>,
    ) -> hyper::Result<Self> {
        let executor = TaskExecutor::new(tasks.clone());
        let (sender, requests) = http2::Builder::new(executor.clone())
            .timer(TokioTimer::new())
            .initial_max_send_streams(INITIAL_LIMIT)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(u32::try_from(max_head).unwrap_or(u32::MAX))
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .handshake(stream)
            .await?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                limit: INITIAL_LIMIT,
                is_limit_known: false,
                streams: 0,
                in_use: 0,
                last_use: LastUse::now(),
                opened: Instant::now(),
                is_closing: false,
            }),
            changed,
        });
        tasks.spawn(Driver::new(requests, &executor, shared.clone(), open));
        Ok(Self {
            sender,
            shared,
            unproven: Some(began),
        })
    }

    fn reserve(&self, now: &LastUse) -> Option<Stream> {
        let mut state = self.shared.state.lock();
        if !state.may_be_used(now) {
            state.is_closing = true;
        }
        if state.is_closing || state.streams >= state.limit {
            return None;
        }
        state.streams += 1;
        drop(state);
        Some(Stream::new(self.sender.clone(), self.shared.clone()))
    }
}

// === impl Shared ===

impl Shared {
    /// Closes the connection once its streams have ended.
    fn close(&self) {
        self.state.lock().is_closing = true;
        self.changed.notify_waiters();
    }

    /// The server allows `limit` streams.
    fn set_limit(&self, limit: usize) {
        let mut state = self.state.lock();
        state.limit = limit;
        state.is_limit_known = true;
        drop(state);
        self.changed.notify_waiters();
    }

    /// Closes a connection that has been unused for too long.
    ///
    /// # Errors
    ///
    /// When to ask again.
    fn close_if_expired(&self) -> Result<(), Instant> {
        let mut state = self.state.lock();
        if state.streams > 0 {
            return Err(LastUse::now().expires());
        }
        if state.may_be_used(&LastUse::now()) {
            return Err(state.last_use.expires());
        }
        state.is_closing = true;
        Ok(())
    }
}

// === impl State ===

impl State {
    /// Whether a new request may be sent on the connection, as far as its last use tells. With
    /// streams in use, PINGs show whether it is alive.
    fn may_be_used(&self, now: &LastUse) -> bool {
        let limit = match self.in_use {
            0 => super::last_use::MAX_IDLE,
            _ => Duration::MAX,
        };
        self.last_use.allows(limit, now)
    }
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
