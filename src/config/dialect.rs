//! Dialects: files that describe what an upstream's responses mean.

use std::time::Duration;

use http::StatusCode;
use jiff::tz::TimeZone;

use super::{
    cursor::{Cursor, TableReader},
    data::Folder,
    error::suggestion,
    units,
};

/// How an upstream asks to slow down and reports exhaustion; the first rule that matches wins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialect {
    /// Its name: a file in `config/dialects/`, or a path.
    pub name: String,
    /// The rules, in order.
    pub rules: Vec<DialectRule>,
    /// Statuses that mean that the token was refused.
    pub refresh_on: Vec<StatusCode>,
    /// Whether an event stream under a success status may begin with an error.
    pub stream_errors: bool,
}

/// One rule of a dialect: what has to match, and what it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialectRule {
    /// The response status; empty matches every one.
    pub status: Vec<StatusCode>,
    /// The error's `code`, `type` or `status`, compared without case; empty matches every one.
    pub code: Vec<String>,
    /// A part of the error's `message`, compared without case.
    pub message: Option<String>,
    /// A part of the name of the limit that was reached, where errors name one; compared without
    /// case.
    pub limit: Option<String>,
    /// Whether the response must carry a `Retry-After`.
    pub with_retry_after: bool,
    /// What it means.
    pub verdict: RuleVerdict,
}

/// What a response means for its request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleVerdict {
    /// A quota is exhausted: no retry makes sense.
    Exhausted(ResetsAt),
    /// Return it to the client.
    Pass,
    /// Wait and try again.
    Retry {
        /// How to pace the requests after it.
        pace: Pace,
        /// The shortest wait; also the wait if the response names none.
        at_least: Option<Duration>,
    },
}

/// How to pace requests after a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// With fewer requests in flight, for a while.
    FewerAtOnce,
    /// With longer gaps, for a while.
    Ramp,
    /// As before.
    Same,
}

/// When an exhausted quota resets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResetsAt {
    /// After this time at the latest: a rolling window.
    AtMost(Duration),
    /// The next civil day in this time zone.
    Day(TimeZone),
    /// The next civil month in this time zone.
    Month {
        /// Where the month is counted.
        zone: TimeZone,
        /// The day of the month that it begins on, 1 to 28, if the dialect or the user named one.
        anchor_day: Option<u8>,
    },
    /// The upstream does not say.
    Unknown,
    /// The next Monday in this time zone.
    Week(TimeZone),
}

type ReadRuleVerdict = fn(&mut TableReader<'_>) -> Option<RuleVerdict>;

// === impl Dialect ===

impl Dialect {
    /// Makes months without an anchor day begin on `day`.
    pub(super) fn anchor_months(&mut self, day: u8) {
        for rule in &mut self.rules {
            if let RuleVerdict::Exhausted(ResetsAt::Month { anchor_day, .. }) = &mut rule.verdict {
                anchor_day.get_or_insert(day);
            }
        }
    }
}

/// Reads the dialect whose name or path is the value of `cursor`.
pub(super) fn read(cursor: &Cursor<'_>) -> Option<Dialect> {
    let tree = Folder::Dialects.open(cursor, "dialect")?;
    let mut table = Cursor::root(&tree, cursor.scope).table()?;
    let refresh_on = table
        .required("refresh-on")
        .and_then(|statuses| statuses.list(status));
    let stream_errors = table.optional_with("stream-errors", Cursor::bool);
    let rules = table.required("rule").and_then(|rules| rules.list(rule));
    table.finish();
    Some(Dialect {
        name: cursor.string()?,
        rules: rules?,
        refresh_on: refresh_on?,
        stream_errors: stream_errors?.unwrap_or_default(),
    })
}

fn rule(cursor: &Cursor<'_>) -> Option<DialectRule> {
    let mut table = cursor.table()?;
    let statuses = table.optional_with("status", |statuses| statuses.list(status));
    let code = table.optional_with("code", Cursor::strings);
    let message = table.optional_with("message", Cursor::string);
    let limit = table.optional_with("limit", Cursor::string);
    let with_retry_after = table.optional_with("with-retry-after", Cursor::bool);
    let word = table.required("verdict").and_then(|word| {
        word.choice::<ReadRuleVerdict>(&[
            ("exhausted", exhausted),
            ("pass", |_| Some(RuleVerdict::Pass)),
            ("retry", retry),
        ])
    });
    let verdict = word.and_then(|read| read(&mut table));
    // Without a verdict, it is unknown which keys belong to it.
    if word.is_some() {
        table.finish();
    }
    Some(DialectRule {
        status: statuses?.unwrap_or_default(),
        code: code?.unwrap_or_default(),
        message: message?,
        limit: limit?,
        with_retry_after: with_retry_after?.unwrap_or_default(),
        verdict: verdict?,
    })
}

fn retry(table: &mut TableReader<'_>) -> Option<RuleVerdict> {
    let pace = table.optional_with("pace", |pace| {
        pace.choice(&[("fewer-at-once", Pace::FewerAtOnce), ("ramp", Pace::Ramp)])
    });
    let at_least = table.optional_with("at-least", Cursor::duration);
    Some(RuleVerdict::Retry {
        pace: pace?.unwrap_or(Pace::Same),
        at_least: at_least?,
    })
}

fn exhausted(table: &mut TableReader<'_>) -> Option<RuleVerdict> {
    let until = table.required("until")?;
    resets_at(&until, table).map(RuleVerdict::Exhausted)
}

/// Only calendar periods have a zone, and only months an anchor day.
fn resets_at(word: &Cursor<'_>, table: &mut TableReader<'_>) -> Option<ResetsAt> {
    const WORDS: [&str; 4] = ["unknown", "day", "week", "month"];
    Some(match word.str()? {
        "unknown" => ResetsAt::Unknown,
        "day" => ResetsAt::Day(zone(table)?),
        "week" => ResetsAt::Week(zone(table)?),
        "month" => ResetsAt::Month {
            zone: zone(table)?,
            // Every month has 28 days.
            anchor_day: table.optional_with("anchor-day", |day| day.integer(1, 28))?,
        },
        text => match units::duration(text).filter(|longest| !longest.is_zero()) {
            Some(longest) => ResetsAt::AtMost(longest),
            None => word.expected(
                "a duration above 0s, or \"unknown\", \"day\", \"week\", \"month\"",
                suggestion(text, &WORDS),
            )?,
        },
    })
}

fn zone(table: &mut TableReader<'_>) -> Option<TimeZone> {
    let zone = table.optional_with("zone", |zone| {
        zone.parse("the name of a time zone", "Asia/Shanghai", |name| {
            TimeZone::get(name).ok()
        })
    })?;
    Some(zone.unwrap_or(TimeZone::UTC))
}

fn status(cursor: &Cursor<'_>) -> Option<StatusCode> {
    StatusCode::from_u16(cursor.integer(100, 599)?).ok()
}
