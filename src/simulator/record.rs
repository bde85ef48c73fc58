//! What arrived, when, and how its answer ended.

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

use super::{limits::Slot, wire::Line};

/// One request as it came in. Times are microseconds since the simulator started, on a clock that
/// never steps.
#[derive(Clone, Debug, Serialize)]
pub struct Arrival {
    /// Counts up from 0 and goes on after a reset.
    pub sequence: u64,
    /// When the head was complete.
    pub at_us: u64,
    /// Which connection it came on, counted from 1.
    pub connection: u64,
    /// Where that came from; absent if it had broken before anybody asked.
    pub peer: Option<IpAddr>,
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub version: String,
    /// Fields in the order of the wire, names in lower case, repeated names beside the first.
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
    /// The status answered; absent until there is one.
    pub status: Option<u16>,
    /// Length of the answer's body; 0 until the answer has ended.
    pub sent_bytes: u64,
    /// SHA-256 of what was sent, in hex; absent until the answer has ended.
    pub sent_sha256: Option<String>,
    /// When the answer ended.
    pub done_us: Option<u64>,
    /// How the answer ended.
    pub outcome: Option<Outcome>,
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The simulator broke it off, because of a fault.
    Aborted,
    /// The client went first (or the simulator was stopped).
    ClientLeft,
    /// The last byte was handed to the connection.
    Completed,
}

/// The book of arrivals.
#[derive(Debug)]
pub(super) struct Record {
    start: Instant,
    book: Mutex<Book>,
    in_flight: AtomicUsize,
}

#[derive(Debug, Default)]
struct Book {
    /// The sequence of the oldest arrival that is kept.
    first: u64,
    arrivals: VecDeque<Arrival>,
}

/// An arrival whose answer has not ended. Dropped before that, it says that the client left.
#[derive(Debug)]
pub(super) struct Open {
    ended: bool,
    record: Arc<Record>,
    sent: Sha256,
    sent_bytes: u64,
    sequence: u64,
    slot: Option<Slot>,
}

/// The two fields of a chat request that the record shows.
#[derive(Default, Deserialize)]
struct Asked {
    model: Option<String>,
    stream: Option<bool>,
}

/// How many arrivals are kept: a simulator that serves for weeks must not grow.
const KEPT: usize = 100_000;

// === impl Arrival ===

impl Arrival {
    /// The first value of a header, by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(have, _)| have == name)?;
        Some(value)
    }
}

// === impl Record ===

impl Record {
    pub(super) fn new(start: Instant) -> Self {
        Self {
            start,
            book: Mutex::default(),
            in_flight: AtomicUsize::new(0),
        }
    }

    /// Writes an arrival down.
    pub(super) fn open<B>(self: &Arc<Self>, request: &Request<B>, line: &Line) -> Open {
        let headers = headers(request);
        // Number and time are taken together, so that the record is in order of time.
        let mut book = self.book.lock();
        let sequence = book.first + book.arrivals.len() as u64;
        book.arrivals.push_back(Arrival {
            sequence,
            at_us: self.now_us(),
            connection: line.id,
            peer: line.peer,
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
        if book.arrivals.len() > KEPT {
            book.arrivals.pop_front();
            book.first += 1;
        }
        drop(book);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Open {
            ended: false,
            record: Arc::clone(self),
            sent: Sha256::new(),
            sent_bytes: 0,
            sequence,
            slot: None,
        }
    }

    pub(super) fn clear(&self) {
        let mut book = self.book.lock();
        book.first += book.arrivals.len() as u64;
        book.arrivals.clear();
    }

    pub(super) fn arrivals(&self) -> Vec<Arrival> {
        self.book.lock().arrivals.iter().cloned().collect()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Changes an arrival, unless it has been forgotten.
    fn amend(&self, sequence: u64, change: impl FnOnce(&mut Arrival)) {
        let mut book = self.book.lock();
        let index = sequence
            .checked_sub(book.first)
            .and_then(|index| usize::try_from(index).ok());
        if let Some(arrival) = index.and_then(|index| book.arrivals.get_mut(index)) {
            change(arrival);
        }
    }
}

// === impl Open ===

impl Open {
    /// Notes the request's body.
    pub(super) fn received(&self, body: &[u8]) {
        let asked: Asked = serde_json::from_slice(body).unwrap_or_default();
        let digest = sha256_hex(body);
        self.record.amend(self.sequence, |arrival| {
            arrival.body_bytes = body.len();
            arrival.body_sha256 = Some(digest);
            arrival.model = asked.model;
            arrival.stream = asked.stream;
        });
    }

    /// Keeps a place among the concurrent requests until the answer ends.
    pub(super) fn hold(&mut self, slot: Slot) {
        self.slot = Some(slot);
    }

    /// Notes the status.
    pub(super) fn answered(&self, status: u16) {
        self.record
            .amend(self.sequence, |arrival| arrival.status = Some(status));
    }

    /// Notes a piece of the answer's body.
    pub(super) fn sent(&mut self, bytes: &[u8]) {
        self.sent.update(bytes);
        self.sent_bytes += bytes.len() as u64;
    }

    /// Notes how the answer ended; only the first word counts.
    pub(super) fn finish(&mut self, outcome: Outcome) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.slot = None;
        let done_us = self.record.now_us();
        let digest = hex(&std::mem::take(&mut self.sent).finalize());
        self.record.amend(self.sequence, |arrival| {
            arrival.sent_bytes = self.sent_bytes;
            arrival.sent_sha256 = Some(digest);
            arrival.done_us = Some(done_us);
            arrival.outcome = Some(outcome);
        });
        self.record.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.finish(Outcome::ClientLeft);
    }
}

/// The SHA-256 of some bytes, in hex.
pub(super) fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The fields as received. A `HeaderMap` that only ever grew iterates in order of insertion, and
/// hyper removes nothing from a request.
pub(super) fn headers<B>(request: &Request<B>) -> Vec<(String, String)> {
    let authority = request
        .uri()
        .authority()
        .filter(|_| request.version() == Version::HTTP_2)
        .map(|authority| (":authority".to_owned(), authority.to_string()));
    let fields = request.headers().iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        (name.to_string(), value)
    });
    authority.into_iter().chain(fields).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}
