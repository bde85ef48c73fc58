//! What is kept between two processes, and how it is written.
//!
//! ```json
//! {"version":1,"latest":1776268800000,"even":1776268800000,"counts":[
//!   {"of":"60000ms","spent":[[1776268799120,1]]},
//!   {"of":"day Asia/Shanghai","begun":"2026-04-16","used":1}]}
//! ```

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use super::clock::{LAST, Millis, millis_up};
use crate::config::Per;

/// What a [`Book`](super::Book) has counted, as it is kept between two processes.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Record {
    version: u32,
    #[serde(flatten)]
    pub(super) times: Times,
    pub(super) counts: Vec<Count>,
}

/// One moment in both times.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Times {
    /// The latest that the wall clock has ever shown.
    pub(super) latest: Millis,
    /// The even time, rounded down.
    pub(super) even: Millis,
}

/// What is kept of one quota.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Count {
    of: String,
    #[serde(flatten)]
    pub(super) kept: Kept,
}

/// How much was used.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(untagged)]
pub(super) enum Kept {
    /// In the period that begins on this date.
    Period { begun: Date, used: u32 },
    /// In the window: how many at which even time, oldest first.
    Window { spent: Vec<(Millis, u32)> },
}

/// A file that says nothing that can be relied on.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// A later program has written it.
    #[error("it is of version {0}, which this program does not know")]
    Future(u32),
    /// It is not JSON, or says something else.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// It contradicts itself.
    #[error("it holds times that cannot be")]
    Nonsense,
}

/// Written into the file; to be raised when an older program would misread it.
const VERSION: u32 = 1;

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

// === impl Record ===

impl Record {
    pub(super) fn new(times: Times, counts: Vec<Count>) -> Self {
        Self {
            version: VERSION,
            times,
            counts,
        }
    }

    /// Reads what was written as JSON.
    ///
    /// # Errors
    ///
    /// [`Unreadable`] if it cannot be relied on.
    pub fn parse(text: &[u8]) -> Result<Self, Unreadable> {
        let Versioned { version } = serde_json::from_slice(text)?;
        if version != VERSION {
            return Err(Unreadable::Future(version));
        }
        let record: Self = serde_json::from_slice(text)?;
        let Times { latest, even } = record.times;
        let possible = (0..=LAST).contains(&latest)
            && (0..=LAST).contains(&even)
            && record
                .counts
                .iter()
                .all(|count| count.kept.is_possible(even));
        possible.then_some(record).ok_or(Unreadable::Nonsense)
    }
}

// === impl Count ===

impl Count {
    pub(super) fn new(per: &Per, kept: Kept) -> Self {
        Self { of: key(per), kept }
    }

    /// Whether it was counted over the same time, whatever the limit.
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

// === impl Kept ===

impl Kept {
    fn is_possible(&self, even: Millis) -> bool {
        match self {
            Self::Period { .. } => true,
            // What was spent in this very moment was rounded up.
            Self::Window { spent } => {
                spent.is_sorted()
                    && spent
                        .iter()
                        .all(|(at, count)| (0..=even + 1).contains(at) && *count > 0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn record() -> Record {
        let window = Per::Window(Duration::from_secs(60));
        let day = Per::Day {
            zone: "Asia/Shanghai".into(),
        };
        let times = Times {
            latest: 1_776_268_800_000,
            even: 1_776_268_800_000,
        };
        let spent = vec![(1_776_268_799_120, 1)];
        let begun = Date::constant(2026, 4, 16);
        let counts = vec![
            Count::new(&window, Kept::Window { spent }),
            Count::new(&day, Kept::Period { begun, used: 1 }),
        ];
        Record::new(times, counts)
    }

    const TEXT: &str = r#"{"version":1,"latest":1776268800000,"even":1776268800000,"counts":[{"of":"60000ms","spent":[[1776268799120,1]]},{"of":"day Asia/Shanghai","begun":"2026-04-16","used":1}]}"#;

    #[test]
    fn is_written_and_read_as_documented() {
        assert_eq!(serde_json::to_string(&record()).unwrap(), TEXT);
        assert_eq!(Record::parse(TEXT.as_bytes()).unwrap(), record());
    }

    #[test]
    fn a_later_version_is_told_from_nonsense() {
        let later = TEXT.replace("\"version\":1", "\"version\":2");
        assert!(matches!(
            Record::parse(later.as_bytes()),
            Err(Unreadable::Future(2))
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
            assert!(Record::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn reads_or_refuses_whatever_a_broken_disk_made_of_it(at in 0..TEXT.len(), byte in any::<u8>(), length in 0..TEXT.len()) {
            let mut text = TEXT.as_bytes().to_vec();
            text[at] = byte;
            text.truncate(length.max(at));
            let _read = Record::parse(&text);
        }
    }
}
