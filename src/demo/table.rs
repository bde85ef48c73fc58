//! What became of each request of a burst, by two witnesses.
//!
//! A client cannot see its request leave the gateway. It knows when it sent it, and the answer says
//! how long the gateway kept it (`x-pacegate-queued-ms`, counted from the request's head on this
//! machine): the sum of both is when it left. Beside it stands what the upstream wrote down by
//! itself, so that nobody has to take the gateway's word for it.

use std::{fmt, time::Duration};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::burst::{Event, Noticed};
use crate::simulator::Arrival;

/// One row for each request.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Row>,
    /// The first request's departure from its client: all instants are counted from here.
    start: Option<Instant>,
}

#[derive(Debug)]
struct Row {
    /// The body's SHA-256, by which the upstream knows the request.
    digest: String,
    sent: Option<Instant>,
    queued: Option<Duration>,
    first_byte: Option<Instant>,
    done: Option<Instant>,
    /// When the upstream saw it.
    seen: Option<Instant>,
}

/// Where a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Waiting,
    Underway,
    Done,
}

/// The burst as a whole. What concerns the upstream is from its own record.
#[derive(Debug)]
pub struct Totals {
    requests: usize,
    /// Every attempt counts.
    arrivals: usize,
    refused: usize,
    /// The least and the greatest.
    gaps: Option<(Duration, Duration)>,
    time: Duration,
}

/// Above the rows.
pub(super) const HEAD: &str = concat!(
    "                                                        | upstream's record\n",
    " # arrived  queued    left     gap  first byte     done | arrived     gap",
);

/// There is none before the first.
const NO_GAP: &str = "-";

// === impl Table ===

impl Table {
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

    /// Notes what a client noticed.
    pub(super) fn note(&mut self, event: &Event) {
        let Some(row) = self.rows.get_mut(event.request) else {
            return;
        };
        match event.what {
            Noticed::Sent => {
                row.sent = Some(event.at);
                self.start.get_or_insert(event.at);
            }
            Noticed::Head { queued } => row.queued = Some(queued),
            Noticed::FirstByte => row.first_byte = Some(event.at),
            Noticed::Done => row.done = Some(event.at),
        }
    }

    /// Notes what the upstream saw.
    pub(super) fn see(&mut self, arrivals: &[(Instant, Arrival)]) {
        for row in &mut self.rows {
            let mut mine = arrivals.iter().filter(|(_, arrival)| row.is(arrival));
            row.seen = mine.next_back().map(|(at, _)| *at);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn phase(&self, index: usize) -> Phase {
        match &self.rows[index] {
            row if row.done.is_some() => Phase::Done,
            row if row.seen.is_some() => Phase::Underway,
            _ => Phase::Waiting,
        }
    }

    /// A row, with all that is known of it.
    pub(super) fn line(&self, index: usize) -> String {
        let row = &self.rows[index];
        let queued = match (row.queued, row.sent) {
            (Some(queued), _) => seconds(queued),
            // Runs until the upstream has it; how long it was is said by the answer.
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
    pub(super) fn tell(&self, event: &Event) -> String {
        let row = &self.rows[event.request];
        let what = match event.what {
            Noticed::Sent => "sent".into(),
            Noticed::Head { queued } => {
                let (left, queued) = (self.offset(row.left()), seconds(queued));
                format!("answer begins; it left at {left}, queued {queued}")
            }
            Noticed::FirstByte => "first byte".into(),
            Noticed::Done => "done".into(),
        };
        let at = self.offset(Some(event.at));
        format!("{at:>7}  request {}: {what}", event.request + 1)
    }

    /// What there is to say at the end.
    pub(super) fn totals(&self, arrivals: &[(Instant, Arrival)]) -> Totals {
        let mut mine = Vec::new();
        let mut refused = 0;
        for (at, arrival) in arrivals {
            if self.rows.iter().any(|row| row.is(arrival)) {
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

    fn is(&self, arrival: &Arrival) -> bool {
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
