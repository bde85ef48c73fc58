//! Who was dispatched when, and where it counts.

use std::{collections::HashMap, time::Duration};

use jiff::civil::Date;
use pacegate::config::{Per, Quota};

use super::{calendar::Calendar, clock::Clock};

pub(super) struct Ledger<'a> {
    pub(super) accounts: Vec<Account<'a>>,
}

/// What counts for one quota.
pub(super) struct Account<'a> {
    pub(super) quota: &'a Quota,
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    Calendar {
        calendar: Calendar,
        counts: HashMap<Date, usize>,
        /// Who was dispatched when, by the calendar.
        last: HashMap<usize, Date>,
        /// The latest of all.
        latest: Option<i64>,
    },
    Window {
        per: i64,
        /// What was never sent is given back where the upstream alone counts.
        gives_back: bool,
        /// Shrinks after refusals.
        shrinks: bool,
        /// Oldest first.
        spent: Vec<Spent>,
    },
}

/// One dispatch, by two of the times of [`Clock`].
#[derive(Clone, Copy)]
pub(super) struct Spent {
    pub(super) request: usize,
    pub(super) longest: i64,
    pub(super) taken: i64,
}

const HOUR: Duration = Duration::from_secs(3600);

// === impl Ledger ===

impl<'a> Ledger<'a> {
    pub(super) fn new(quotas: &'a [Quota]) -> Self {
        let accounts = quotas.iter().map(|quota| {
            let kind = match (&quota.per, Calendar::of(&quota.per)) {
                (_, Some(calendar)) => Kind::Calendar {
                    calendar,
                    counts: HashMap::new(),
                    last: HashMap::new(),
                    latest: None,
                },
                (per, None) => {
                    let Per::Window(per) = per else {
                        unreachable!("whatever is no calendar is a window")
                    };
                    Kind::Window {
                        per: i64::try_from(per.as_micros()).unwrap(),
                        gives_back: *per >= HOUR,
                        shrinks: *per <= HOUR,
                        spent: Vec::new(),
                    }
                }
            };
            Account { quota, kind }
        });
        Self {
            accounts: accounts.collect(),
        }
    }

    pub(super) fn spend(&mut self, request: usize, clock: &Clock) {
        for account in &mut self.accounts {
            match &mut account.kind {
                Kind::Calendar {
                    calendar,
                    counts,
                    last,
                    latest,
                } => {
                    let period = calendar.period(clock.civil());
                    *counts.entry(period).or_default() += 1;
                    last.insert(request, period);
                    *latest = Some(clock.civil());
                }
                Kind::Window { spent, .. } => spent.push(Spent {
                    request,
                    longest: clock.longest(),
                    taken: clock.taken(),
                }),
            }
        }
    }

    /// The latest dispatch of `request` has not reached the upstream.
    pub(super) fn give_back(&mut self, request: usize) {
        for account in &mut self.accounts {
            match &mut account.kind {
                Kind::Calendar { counts, last, .. } => {
                    if let Some(count) = last.get(&request).and_then(|it| counts.get_mut(it)) {
                        *count -= 1;
                    }
                }
                Kind::Window {
                    gives_back, spent, ..
                } => {
                    let sent = |spent: &Spent| spent.request == request;
                    if *gives_back && let Some(index) = spent.iter().rposition(sent) {
                        spent.remove(index);
                    }
                }
            }
        }
    }
}
