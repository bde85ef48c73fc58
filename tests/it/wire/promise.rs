//! What an account's gate promises, held against a record of arrivals.

use std::time::Duration;

/// Of the departures that follow another one too early, one in a thousand (and one in fewer) may be
/// early by more than this. On loopback that is what two requests' ways may differ by.
const USUAL: Duration = Duration::from_millis(5);

/// And none by more than this.
const MOST: Duration = Duration::from_millis(20);

/// A request as the upstream saw it, in time since the record began.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) at: Duration,
    /// The end of its answer; absent while that goes on.
    pub(super) done: Option<Duration>,
    /// By how much the recorder, or the machine, may have been late with it.
    pub(super) late: Duration,
}

/// Nothing is promised by default.
#[derive(Clone, Debug, Default)]
pub(super) struct Promise {
    pub(super) min_interval: Duration,
    /// So many requests in any stretch of time this long.
    pub(super) windows: Vec<(usize, Duration)>,
    pub(super) concurrency: Option<usize>,
}

/// By how much requests came too early, each for one pair of a record.
#[derive(Default)]
pub(super) struct Shortfalls {
    pairs: usize,
    early: Vec<(Duration, String)>,
}

// === impl Promise ===

impl Promise {
    /// Checks a record in order of time.
    #[track_caller]
    pub(super) fn assert_kept(&self, record: &[Seen]) {
        let mut shortfalls = Shortfalls::default();
        self.judge(record, &mut shortfalls);
        let mut broken = shortfalls.broken();
        broken.extend(self.crowds(record));
        let arrivals: Vec<_> = record.iter().map(|seen| seen.at).collect();
        assert!(broken.is_empty(), "{broken:#?} of {arrivals:?}");
    }

    /// Adds what is too early in `record` to `shortfalls`.
    pub(super) fn judge(&self, record: &[Seen], shortfalls: &mut Shortfalls) {
        let gap = (1, self.min_interval, "gap");
        let windows = self.windows.iter();
        let windows = windows.map(|(most, per)| (*most, *per, "window"));
        for (most, per, what) in windows.chain([gap]) {
            for pair in record.windows(most + 1) {
                shortfalls.add(&pair[0], &pair[most], per, what);
            }
        }
    }

    /// The arrivals at which more were in flight than may be.
    pub(super) fn crowds(&self, record: &[Seen]) -> Vec<String> {
        let Some(most) = self.concurrency else {
            return Vec::new();
        };
        let in_flight = |at: Duration| {
            let there = |seen: &&Seen| seen.at <= at && seen.done.is_none_or(|done| done > at);
            record.iter().filter(there).count()
        };
        let crowds = record.iter().filter_map(|seen| {
            let count = in_flight(seen.at);
            (count > most).then(|| format!("{count} of {most} in flight at {:?}", seen.at))
        });
        crowds.collect()
    }
}

// === impl Shortfalls ===

impl Shortfalls {
    pub(super) fn add(&mut self, one: &Seen, other: &Seen, least: Duration, what: &str) {
        if least.is_zero() {
            return;
        }
        self.pairs += 1;
        // What was seen late has less behind it.
        let gap = other.at.saturating_sub(one.at) + one.late;
        let short = least.saturating_sub(gap);
        if short > USUAL {
            let text = format!(
                "a {what} of {gap:?} where {least:?} are due, at {:?}",
                one.at
            );
            self.early.push((short, text));
        }
    }

    /// Says whose they are.
    pub(super) fn labelled(mut self, label: &str) -> Self {
        for (_, text) in &mut self.early {
            *text = format!("{label}: {text}");
        }
        self
    }

    pub(super) fn extend(&mut self, others: Self) {
        self.pairs += others.pairs;
        self.early.extend(others.early);
    }

    /// What breaks the promise.
    pub(super) fn broken(mut self) -> Vec<String> {
        let allowed = self.pairs.div_ceil(1000);
        self.early.sort();
        if self.early.len() <= allowed {
            self.early.retain(|(short, _)| *short > MOST);
        }
        self.early.into_iter().map(|(_, text)| text).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(millis: &[(u64, u64)]) -> Vec<Seen> {
        let seen = millis.iter().map(|(at, done)| Seen {
            at: Duration::from_millis(*at),
            done: Some(Duration::from_millis(*done)),
            late: Duration::ZERO,
        });
        seen.collect()
    }

    fn broken(promise: &Promise, record: &[Seen]) -> usize {
        let mut shortfalls = Shortfalls::default();
        promise.judge(record, &mut shortfalls);
        shortfalls.broken().len() + promise.crowds(record).len()
    }

    #[test]
    fn finds_every_kind_of_broken_promise() {
        let gap = Promise {
            min_interval: Duration::from_millis(100),
            ..Promise::default()
        };
        assert_eq!(broken(&gap, &record(&[(0, 0), (96, 96), (196, 196)])), 0);
        assert_eq!(broken(&gap, &record(&[(0, 0), (79, 79), (196, 196)])), 1);
        // Once in a thousand it may be up to 20 ms.
        assert_eq!(broken(&gap, &record(&[(0, 0), (90, 90), (196, 196)])), 0);
        assert_eq!(broken(&gap, &record(&[(0, 0), (90, 90), (180, 180)])), 2);

        let window = Promise {
            windows: vec![(2, Duration::from_secs(1))],
            ..Promise::default()
        };
        assert_eq!(broken(&window, &record(&[(0, 0), (1, 1), (1000, 1000)])), 0);
        assert_eq!(broken(&window, &record(&[(0, 0), (1, 1), (900, 900)])), 1);

        let crowd = Promise {
            concurrency: Some(1),
            ..Promise::default()
        };
        assert_eq!(broken(&crowd, &record(&[(0, 10), (10, 20), (30, 40)])), 0);
        assert_eq!(broken(&crowd, &record(&[(0, 10), (9, 20), (30, 40)])), 1);
    }

    #[test]
    fn allows_for_a_recorder_that_was_late() {
        let gap = Promise {
            min_interval: Duration::from_millis(100),
            ..Promise::default()
        };
        let mut late = record(&[(50, 50), (100, 100)]);
        assert_eq!(broken(&gap, &late), 1);
        late[0].late = Duration::from_millis(50);
        assert_eq!(broken(&gap, &late), 0);
    }
}
