//! The state that a ledger saves for the next process, and its JSON.
//!
//! ```json
//! {"version":1,"latest":1776268800000,"even":1776268800000,"counts":[
//!   {"of":"60000ms","spent":[[1776268799120,1]]},
//!   {"of":"day Asia/Shanghai","begun":"2026-04-16","used":1}]}
//! ```

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use super::clock::{MAX_MILLIS, Millis, millis_up};
use crate::config::Per;

/// The counts of a [`QuotaLedger`](super::QuotaLedger), saved for the next process.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct LedgerSnapshot {
    version: u32,
    #[serde(flatten)]
    pub(super) times: Times,
    pub(super) counts: Vec<CounterSnapshot>,
}

/// One moment on both clocks.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Times {
    /// The latest time that the wall clock has ever shown.
    pub(super) latest: Millis,
    /// Monotonic time, rounded down.
    #[serde(rename = "even")]
    pub(super) monotonic_ms: Millis,
}

/// The saved count of one quota.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct CounterSnapshot {
    of: String,
    #[serde(flatten)]
    pub(super) usage: SavedUsage,
}

/// How much of the quota was used.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(untagged)]
pub(super) enum SavedUsage {
    /// In the period that begins on this date.
    Period { begun: Date, used: u32 },
    /// In the window: pairs of monotonic time and number of dispatches, oldest first.
    Window { spent: Vec<(Millis, u32)> },
}

/// Why a state file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A later version of pacegate wrote it.
    #[error("it is of version {0}, which this program does not know")]
    Future(u32),
    /// It is not JSON, or not of this shape.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// Its times contradict each other.
    #[error("it holds times that cannot be")]
    Nonsense,
}

/// The version of the format; to be raised when an older program would misread the file.
const VERSION: u32 = 1;

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

// === impl LedgerSnapshot ===

impl LedgerSnapshot {
    pub(super) fn new(times: Times, counts: Vec<CounterSnapshot>) -> Self {
        Self {
            version: VERSION,
            times,
            counts,
        }
    }

    /// Parses the content of a state file.
    ///
    /// # Errors
    ///
    /// [`SnapshotError`] if it is of a later version, malformed or contradictory.
    pub fn parse(text: &[u8]) -> Result<Self, SnapshotError> {
        let Versioned { version } = serde_json::from_slice(text)?;
        if version != VERSION {
            return Err(SnapshotError::Future(version));
        }
        let snapshot: Self = serde_json::from_slice(text)?;
        let Times {
            latest,
            monotonic_ms,
        } = snapshot.times;
        let possible = (0..=MAX_MILLIS).contains(&latest)
            && (0..=MAX_MILLIS).contains(&monotonic_ms)
            && snapshot
                .counts
                .iter()
                .all(|count| count.usage.is_possible(monotonic_ms));
        possible.then_some(snapshot).ok_or(SnapshotError::Nonsense)
    }
}

// === impl CounterSnapshot ===

impl CounterSnapshot {
    pub(super) fn new(per: &Per, usage: SavedUsage) -> Self {
        Self {
            of: key(per),
            usage,
        }
    }

    /// Whether it counts over the same time, whatever the limit.
    pub(super) fn is_of(&self, per: &Per) -> bool {
        self.of == key(per)
    }
}

fn key(per: &Per) -> String {
    match per {
        Per::Day { zone } => format!("day {zone}"),
        Per::Month { zone, anchor_day } => format!("month {zone} {anchor_day}"),
        Per::Week { zone } => format!("week {zone}"),
        Per::Window(per) => format!("{}ms", millis_up(*per)),
    }
}

// === impl SavedUsage ===

impl SavedUsage {
    fn is_possible(&self, monotonic_ms: Millis) -> bool {
        match self {
            Self::Period { .. } => true,
            // A dispatch of this very millisecond was rounded up.
            Self::Window { spent } => {
                spent.is_sorted()
                    && spent
                        .iter()
                        .all(|(at, count)| (0..=monotonic_ms + 1).contains(at) && *count > 0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn snapshot() -> LedgerSnapshot {
        let window = Per::Window(Duration::from_secs(60));
        let day = Per::Day {
            zone: "Asia/Shanghai".into(),
        };
        let times = Times {
            latest: 1_776_268_800_000,
            monotonic_ms: 1_776_268_800_000,
        };
        let spent = vec![(1_776_268_799_120, 1)];
        let begun = Date::constant(2026, 4, 16);
        let counts = vec![
            CounterSnapshot::new(&window, SavedUsage::Window { spent }),
            CounterSnapshot::new(&day, SavedUsage::Period { begun, used: 1 }),
        ];
        LedgerSnapshot::new(times, counts)
    }

    const TEXT: &str = r#"{"version":1,"latest":1776268800000,"even":1776268800000,"counts":[{"of":"60000ms","spent":[[1776268799120,1]]},{"of":"day Asia/Shanghai","begun":"2026-04-16","used":1}]}"#;

    #[test]
    fn is_written_and_read_as_documented() {
        assert_eq!(serde_json::to_string(&snapshot()).unwrap(), TEXT);
        assert_eq!(LedgerSnapshot::parse(TEXT.as_bytes()).unwrap(), snapshot());
    }

    #[test]
    fn a_later_version_is_told_from_nonsense() {
        let later = TEXT.replace("\"version\":1", "\"version\":2");
        assert!(matches!(
            LedgerSnapshot::parse(later.as_bytes()),
            Err(SnapshotError::Future(2))
        ));
        for (sense, nonsense) in [
            ("1776268799120", "1776268899120"),
            (",1]]", ",0]]"),
            ("\"latest\":1", "\"latest\":999999"),
            ("2026-04-16", "2026-04-31"),
            ("\"used\":1", "\"used\":-1"),
            ("\"used\":1}", "\"used\":1"),
        ] {
            let text = TEXT.replace(sense, nonsense);
            assert_ne!(text, TEXT);
            assert!(LedgerSnapshot::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn reads_or_refuses_whatever_a_broken_disk_made_of_it(at in 0..TEXT.len(), byte in any::<u8>(), length in 0..TEXT.len()) {
            let mut text = TEXT.as_bytes().to_vec();
            text[at] = byte;
            text.truncate(length.max(at));
            let _read = LedgerSnapshot::parse(&text);
        }
    }
}
