//! The table of a burst: what its clients and the upstream saw of each request.
//!
//! A client cannot see when its request leaves the gateway. It knows when it sent the request, and
//! the response says how long that was queued (`x-pacegate-queued-ms`, counted from the request
//! headers): the sum of both is when it left. The right-hand columns are the upstream's own record,
//! which does not depend on what the gateway says.

use std::{fmt, time::Duration};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::burst::{ClientEvent, ClientEventKind};
use crate::simulator::Arrival;

/// One row for each request.
#[derive(Debug)]
pub(super) struct BurstTable {
    rows: Vec<Row>,
    /// When the first request was sent: all times are counted from here.
    start: Option<Instant>,
}

#[derive(Debug)]
struct Row {
    /// SHA-256 of the body, which identifies the request in the upstream's record.
    digest: String,
    sent: Option<Instant>,
    queued: Option<Duration>,
    first_byte: Option<Instant>,
    done: Option<Instant>,
    /// When the upstream received it.
    seen: Option<Instant>,
}

/// Where a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowState {
    Waiting,
    Underway,
    Done,
}

/// The burst as a whole. `arrivals`, `refused` and `gaps` are from the upstream's record.
#[derive(Debug)]
pub struct Totals {
    requests: usize,
    /// All attempts, retries included.
    arrivals: usize,
    refused: usize,
    /// The smallest and the largest.
    gaps: Option<(Duration, Duration)>,
    time: Duration,
}

/// Above the rows.
pub(super) const HEADING: &str = concat!(
    "                                                        | upstream's record\n",
    " # arrived  queued    left     gap  first byte     done | arrived     gap",
);

/// Shown for the first request, which has no gap before it.
const NO_GAP: &str = "-";

// === impl BurstTable ===

impl BurstTable {
    /// A table of requests that have not been sent.
    pub(super) fn new(bodies: &[Bytes]) -> Self {
        let row = |body: &Bytes| Row {
            digest: hex(&Sha256::digest(body)),
            sent: None,
            queued: None,
            first_byte: None,
            done: None,
            seen: None,
        };
        Self {
            rows: bodies.iter().map(row).collect(),
            start: None,
        }
    }

    /// Records an event of a client.
    pub(super) fn record(&mut self, event: &ClientEvent) {
        let Some(row) = self.rows.get_mut(event.request) else {
            return;
        };
        match event.kind {
            ClientEventKind::Sent => {
                row.sent = Some(event.at);
                self.start.get_or_insert(event.at);
            }
            ClientEventKind::Headers { queued } => row.queued = Some(queued),
            ClientEventKind::FirstByte => row.first_byte = Some(event.at),
            ClientEventKind::Done => row.done = Some(event.at),
        }
    }

    /// Records what the upstream received.
    pub(super) fn record_arrivals(&mut self, arrivals: &[(Instant, Arrival)]) {
        for row in &mut self.rows {
            let mut mine = arrivals.iter().filter(|(_, arrival)| row.matches(arrival));
            row.seen = mine.next_back().map(|(at, _)| *at);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn state(&self, index: usize) -> RowState {
        match &self.rows[index] {
            row if row.done.is_some() => RowState::Done,
            row if row.seen.is_some() => RowState::Underway,
            _ => RowState::Waiting,
        }
    }

    /// A row as text, with blanks for what is not known yet.
    pub(super) fn line(&self, index: usize) -> String {
        let row = &self.rows[index];
        let queued = match (row.queued, row.sent) {
            (Some(queued), _) => seconds(queued),
            // Runs until the upstream has the request; the response says the exact time.
            (None, Some(sent)) => {
                let waited = row.seen.unwrap_or_else(Instant::now) - sent;
                format!("{:.1}..", waited.as_secs_f64())
            }
            (None, None) => String::new(),
        };
        format!(
            "{:>2} {:>7} {queued:>7} {:>7} {:>7} {:>11} {:>8} | {:>7} {:>7}",
            index + 1,
            self.offset(row.sent),
            self.offset(row.left()),
            self.gap(row.left(), Row::left),
            self.offset(row.first_byte),
            self.offset(row.done),
            self.offset(row.seen),
            self.gap(row.seen, |row| row.seen),
        )
    }

    /// An event in words.
    pub(super) fn describe(&self, event: &ClientEvent) -> String {
        let row = &self.rows[event.request];
        let what = match event.kind {
            ClientEventKind::Sent => "sent".into(),
            ClientEventKind::Headers { queued } => {
                let (left, queued) = (self.offset(row.left()), seconds(queued));
                format!("answer begins; it left at {left}, queued {queued}")
            }
            ClientEventKind::FirstByte => "first byte".into(),
            ClientEventKind::Done => "done".into(),
        };
        let at = self.offset(Some(event.at));
        format!("{at:>7}  request {}: {what}", event.request + 1)
    }

    /// The totals, with the upstream's record.
    pub(super) fn totals(&self, arrivals: &[(Instant, Arrival)]) -> Totals {
        let mut mine = Vec::new();
        let mut refused = 0;
        for (at, arrival) in arrivals {
            if self.rows.iter().any(|row| row.matches(arrival)) {
                mine.push(*at);
                refused += usize::from(arrival.status == Some(429));
            }
        }
        let gaps = || mine.windows(2).map(|pair| pair[1] - pair[0]);
        let end = self.rows.iter().filter_map(|row| row.done).max();
        Totals {
            requests: self.rows.len(),
            arrivals: mine.len(),
            refused,
            gaps: gaps().min().zip(gaps().max()),
            time: end.zip(self.start).map_or(Duration::ZERO, |(a, b)| a - b),
        }
    }

    fn offset(&self, at: Option<Instant>) -> String {
        at.zip(self.start)
            .map_or_else(String::new, |(at, start)| seconds(at - start))
    }

    /// From the latest before `at` to `at`.
    fn gap(&self, at: Option<Instant>, of: impl Fn(&Row) -> Option<Instant>) -> String {
        let Some(at) = at else {
            return String::new();
        };
        let before = self.rows.iter().filter_map(of).filter(|other| *other < at);
        before
            .max()
            .map_or_else(|| NO_GAP.into(), |before| seconds(at - before))
    }
}

// === impl Row ===

impl Row {
    fn left(&self) -> Option<Instant> {
        Some(self.sent? + self.queued?)
    }

    fn matches(&self, arrival: &Arrival) -> bool {
        arrival.body_sha256.as_deref() == Some(&*self.digest)
    }
}

// === impl Totals ===

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} requests, {} arrivals at the upstream, {} answers 429",
            self.requests, self.arrivals, self.refused
        )?;
        if let Some((least, greatest)) = self.gaps {
            let (least, greatest) = (seconds(least), seconds(greatest));
            writeln!(
                f,
                "least gap {least} s, greatest gap {greatest} s by the upstream's record"
            )?;
        }
        write!(f, "total time {} s", seconds(self.time))
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.3}", time.as_secs_f64())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
