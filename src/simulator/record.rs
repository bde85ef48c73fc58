//! Records each request: when it arrived, and how its response ended.

use std::{
    collections::VecDeque,
    fmt::Write,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::{Request, Version};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::{connection::ConnectionHandle, limits::ConcurrencyPermit};

/// One request as it arrived. Times are microseconds since the simulator started, on a monotonic
/// clock.
#[derive(Clone, Debug, Serialize)]
pub struct Arrival {
    /// Counted from 0 as headers were complete; a reset does not restart it.
    pub sequence: u64,
    /// When the first byte of the request headers was read; over HTTP/2, when their frame was.
    pub at_us: u64,
    /// Number of the connection, counted from 1.
    pub connection: u64,
    /// The client's address; absent if the connection broke at once.
    pub peer: Option<IpAddr>,
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub version: String,
    /// Headers in the order of the wire, names in lower case, repeated ones beside the first.
    /// HTTP/2's authority comes first, as `:authority`.
    pub headers: Vec<(String, String)>,
    /// Length of the body.
    pub body_bytes: usize,
    /// SHA-256 of the body, in hex; absent until the body is complete.
    pub body_sha256: Option<String>,
    /// The body's `model`, if it is JSON that has one.
    pub model: Option<String>,
    /// The body's `stream`, if it is JSON that has one.
    pub stream: Option<bool>,
    /// Status of the response; absent until there is one.
    pub status: Option<u16>,
    /// Length of the response body; 0 until the response has ended.
    pub sent_bytes: u64,
    /// SHA-256 of the response body, in hex; absent until the response has ended.
    pub sent_sha256: Option<String>,
    /// When the response ended.
    pub done_us: Option<u64>,
    /// How the response ended.
    pub outcome: Option<ResponseEnd>,
}

/// How a response ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ResponseEnd {
    /// A fault broke it off.
    Aborted,
    /// The client left (or the simulator was stopped).
    ClientLeft,
    /// The last byte was handed to hyper.
    Completed,
}

/// The arrivals, shared by all connections.
#[derive(Debug)]
pub(super) struct ArrivalLog {
    start: Instant,
    arrivals: Mutex<Arrivals>,
    in_flight: AtomicUsize,
}

#[derive(Debug, Default)]
struct Arrivals {
    /// Sequence of the oldest arrival that is kept.
    first: u64,
    kept: VecDeque<Arrival>,
}

/// An arrival whose response has not ended. Dropping it records that the client left.
#[derive(Debug)]
pub(super) struct PendingArrival {
    ended: bool,
    log: Arc<ArrivalLog>,
    sent: Sha256,
    sent_bytes: u64,
    sequence: u64,
    permit: Option<ConcurrencyPermit>,
}

/// The fields of a chat request that an [`Arrival`] shows.
#[derive(Default, Deserialize)]
struct ChatFields {
    model: Option<String>,
    stream: Option<bool>,
}

/// The most arrivals that are kept, so that a simulator that runs for weeks does not grow.
const MAX_KEPT: usize = 100_000;

// === impl Arrival ===

impl Arrival {
    /// The first value of a header, by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(have, _)| have == name)?;
        Some(value)
    }
}

// === impl ArrivalLog ===

impl ArrivalLog {
    pub(super) fn new(start: Instant) -> Self {
        Self {
            start,
            arrivals: Mutex::default(),
            in_flight: AtomicUsize::new(0),
        }
    }

    /// Records an arrival.
    pub(super) fn open<B>(
        self: &Arc<Self>,
        request: &Request<B>,
        connection: &ConnectionHandle,
        arrived_at: Instant,
    ) -> PendingArrival {
        let headers = headers(request);
        let mut arrivals = self.arrivals.lock();
        let sequence = arrivals.first + arrivals.kept.len() as u64;
        arrivals.kept.push_back(Arrival {
            sequence,
            at_us: self.us(arrived_at),
            connection: connection.id,
            peer: connection.peer,
            method: request.method().to_string(),
            target: request
                .uri()
                .path_and_query()
                .map_or("*", |target| target.as_str())
                .into(),
            version: format!("{:?}", request.version()),
            headers,
            body_bytes: 0,
            body_sha256: None,
            model: None,
            stream: None,
            status: None,
            sent_bytes: 0,
            sent_sha256: None,
            done_us: None,
            outcome: None,
        });
        if arrivals.kept.len() > MAX_KEPT {
            arrivals.kept.pop_front();
            arrivals.first += 1;
        }
        drop(arrivals);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        PendingArrival {
            ended: false,
            log: Arc::clone(self),
            sent: Sha256::new(),
            sent_bytes: 0,
            sequence,
            permit: None,
        }
    }

    pub(super) fn clear(&self) {
        let mut arrivals = self.arrivals.lock();
        arrivals.first += arrivals.kept.len() as u64;
        arrivals.kept.clear();
    }

    /// In order of time: headers that took long may have been complete after later ones.
    pub(super) fn arrivals(&self) -> Vec<Arrival> {
        let mut arrivals: Vec<_> = self.arrivals.lock().kept.iter().cloned().collect();
        arrivals.sort_by_key(|arrival| arrival.at_us);
        arrivals
    }

    pub(super) fn start(&self) -> Instant {
        self.start
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    fn us(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.start);
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }

    /// Changes an arrival, unless it was removed.
    fn amend(&self, sequence: u64, change: impl FnOnce(&mut Arrival)) {
        let mut arrivals = self.arrivals.lock();
        let index = sequence
            .checked_sub(arrivals.first)
            .and_then(|index| usize::try_from(index).ok());
        if let Some(arrival) = index.and_then(|index| arrivals.kept.get_mut(index)) {
            change(arrival);
        }
    }
}

// === impl PendingArrival ===

impl PendingArrival {
    /// Records the request body.
    pub(super) fn body_received(&self, body: &[u8]) {
        let fields: ChatFields = serde_json::from_slice(body).unwrap_or_default();
        let digest = sha256_hex(body);
        self.log.amend(self.sequence, |arrival| {
            arrival.body_bytes = body.len();
            arrival.body_sha256 = Some(digest);
            arrival.model = fields.model;
            arrival.stream = fields.stream;
        });
    }

    /// Keeps the permit until the response ends.
    pub(super) fn hold_permit(&mut self, permit: ConcurrencyPermit) {
        self.permit = Some(permit);
    }

    /// Records the status.
    pub(super) fn status_sent(&self, status: u16) {
        self.log
            .amend(self.sequence, |arrival| arrival.status = Some(status));
    }

    /// Records a chunk of the response body.
    pub(super) fn body_sent(&mut self, bytes: &[u8]) {
        self.sent.update(bytes);
        self.sent_bytes += bytes.len() as u64;
    }

    /// Records how the response ended; only the first call counts.
    pub(super) fn finish(&mut self, end: ResponseEnd) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.permit = None;
        let done_us = self.log.us(Instant::now());
        let digest = hex(&std::mem::take(&mut self.sent).finalize());
        self.log.amend(self.sequence, |arrival| {
            arrival.sent_bytes = self.sent_bytes;
            arrival.sent_sha256 = Some(digest);
            arrival.done_us = Some(done_us);
            arrival.outcome = Some(end);
        });
        self.log.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }
}

impl Drop for PendingArrival {
    fn drop(&mut self) {
        self.finish(ResponseEnd::ClientLeft);
    }
}

/// SHA-256 in hex.
pub(super) fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The headers in the order of the wire. A `HeaderMap` from which nothing was removed iterates in
/// insertion order, and hyper removes nothing from a request.
pub(super) fn headers<B>(request: &Request<B>) -> Vec<(String, String)> {
    let authority = request
        .uri()
        .authority()
        .filter(|_| request.version() == Version::HTTP_2)
        .map(|authority| (":authority".to_owned(), authority.to_string()));
    let headers = request.headers().iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        (name.to_string(), value)
    });
    authority.into_iter().chain(headers).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}
