//! Quotas as one would count them at first, for a gate to have in the place of a book's.

use std::{
    fmt,
    num::NonZeroUsize,
    sync::Mutex,
    time::{Duration, SystemTime},
};

use jiff::{Timestamp, ToSpan, civil::Date, tz::TimeZone};
use pacegate::wall_clock::WallClock;
use pacegate_layers::pacing::{Claim, ClaimFuture, Fraction, Ledger};
use tokio::time::Instant;

/// Counts by what the wall clock shows.
pub(crate) struct Wrong {
    limit: NonZeroUsize,
    wall: WallClock,
    way: Way,
    spent: Mutex<Spent>,
}

#[derive(Debug)]
pub(crate) enum Way {
    /// Begins to count whenever the date is another one.
    ByDate(TimeZone),
    /// Every day has 24 hours.
    FixedDay(TimeZone),
    /// What was spent so long ago by the wall clock counts no more.
    WallWindow(Duration),
}

#[derive(Debug, Default)]
struct Spent {
    period: Option<Period>,
    at: Vec<(Instant, SystemTime)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Period {
    begun: Date,
    end: Timestamp,
}

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

// === impl Wrong ===

impl Wrong {
    pub(crate) fn new(limit: NonZeroUsize, wall: WallClock, way: Way) -> Self {
        Self {
            limit,
            wall,
            way,
            spent: Mutex::default(),
        }
    }

    /// Forgets what counts no more, and says how long until there is room if there is none.
    fn wait(&self, spent: &mut Spent, share: Fraction, now: SystemTime) -> Option<Duration> {
        let shown = Timestamp::try_from(now).unwrap();
        match &self.way {
            Way::ByDate(zone) => {
                let begun = shown.to_zoned_datetime(zone.clone()).date();
                if spent.period.is_none_or(|known| known.begun != begun) {
                    let end = midnight(begun.saturating_add(1.day()), zone);
                    spent.begin(Period { begun, end });
                }
            }
            Way::FixedDay(zone) => match spent.period {
                None => {
                    let begun = shown.to_zoned_datetime(zone.clone()).date();
                    let end = midnight(begun, zone) + DAY;
                    spent.begin(Period { begun, end });
                }
                Some(mut period) => {
                    while period.end <= shown {
                        period.end += DAY;
                    }
                    if spent.period != Some(period) {
                        spent.begin(period);
                    }
                }
            },
            Way::WallWindow(per) => spent.at.retain(|(_, at)| *at + *per > now),
        }
        let limit = match self.way {
            Way::WallWindow(per) if per <= HOUR => share.of(self.limit),
            _ => self.limit.get(),
        };
        let earlier = spent.at.len().checked_sub(limit)?;
        match (&self.way, spent.period) {
            (Way::WallWindow(per), _) => (spent.at[earlier].1 + *per).duration_since(now).ok(),
            (_, Some(period)) => Duration::try_from(period.end - shown).ok(),
            (_, None) => None,
        }
    }
}

impl Ledger for Wrong {
    fn next_slot(&self, _ahead: usize, share: Fraction) -> Option<Instant> {
        let now = (self.wall)();
        let wait = self.wait(&mut self.spent.lock().unwrap(), share, now)?;
        Some(Instant::now() + wait)
    }

    fn claim(&self, share: Fraction) -> ClaimFuture {
        if let Some(slot) = self.next_slot(0, share) {
            return ClaimFuture::ready(Ok(Claim::Wait(slot)));
        }
        let now = (Instant::now(), (self.wall)());
        self.spent.lock().unwrap().at.push(now);
        ClaimFuture::ready(Ok(Claim::Granted))
    }

    fn left(&self) {}

    fn undo(&self) {
        self.spent.lock().unwrap().at.pop();
    }

    fn unsent(&self, spent: Instant) {
        if !matches!(self.way, Way::WallWindow(per) if per < HOUR) {
            let mut known = self.spent.lock().unwrap();
            if let Some(index) = known.at.iter().position(|(at, _)| *at == spent) {
                known.at.remove(index);
            }
        }
    }
}

impl fmt::Debug for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wrong")
            .field("limit", &self.limit)
            .field("way", &self.way)
            .field("spent", &self.spent)
            .finish_non_exhaustive()
    }
}

// === impl Spent ===

impl Spent {
    fn begin(&mut self, period: Period) {
        self.period = Some(period);
        self.at.clear();
    }
}

fn midnight(date: Date, zone: &TimeZone) -> Timestamp {
    date.to_zoned_datetime(zone.clone()).unwrap().timestamp()
}
