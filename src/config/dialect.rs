//! Dialects: files that say what an upstream's answers mean.

use std::time::Duration;

use http::StatusCode;
use jiff::tz::TimeZone;

use super::{
    cursor::{Cursor, Fields},
    data::Folder,
    error::suggestion,
    units,
};

/// How an upstream says "slow down" and "used up"; the first rule that matches wins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialect {
    /// Its name: a file in `config/dialects/`, or a path.
    pub name: String,
    /// In order.
    pub rules: Vec<DialectRule>,
    /// Statuses that mean the token was refused.
    pub refresh_on: Vec<StatusCode>,
    /// Whether an event stream under a success status may begin with an error.
    pub stream_errors: bool,
}

/// One row of a dialect: what has to match, and what it means.
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
    /// Whether the answer must carry a `Retry-After`.
    pub with_retry_after: bool,
    /// What it means.
    pub verdict: Verdict,
}

/// What an answer means for the request that got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Something is used up: no retry makes sense.
    Exhausted(Until),
    /// Hand it to the client.
    Pass,
    /// Wait and try again.
    Retry {
        /// How to go on then.
        pace: Pace,
        /// The least wait; also the wait where the answer names none.
        at_least: Option<Duration>,
    },
}

/// How to go on after a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// With fewer requests in flight, for a while.
    FewerAtOnce,
    /// With longer gaps, for a while.
    Ramp,
    /// As before.
    Same,
}

/// When there is some again of what is used up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Until {
    /// After so long at the latest: a window that rolls.
    AtMost(Duration),
    /// The next civil day in this time zone.
    Day(TimeZone),
    /// The next civil month in this time zone.
    Month {
        /// Where the month is counted.
        zone: TimeZone,
        /// The day that it begins on, 1 to 28, if the dialect or the person has told.
        anchor_day: Option<u8>,
    },
    /// Nobody knows.
    Unknown,
    /// The next Monday in this time zone.
    Week(TimeZone),
}

type ReadVerdict = fn(&mut Fields<'_>) -> Option<Verdict>;

// === impl Dialect ===

impl Dialect {
    /// Lets months that begin on nobody knows which day begin on `day`.
    pub(super) fn anchor_months(&mut self, day: u8) {
        for rule in &mut self.rules {
            if let Verdict::Exhausted(Until::Month { anchor_day, .. }) = &mut rule.verdict {
                anchor_day.get_or_insert(day);
            }
        }
    }
}

/// Reads the dialect whose name or path stands here.
pub(super) fn read(cursor: &Cursor<'_>) -> Option<Dialect> {
    let tree = Folder::Dialects.open(cursor, "dialect")?;
    let mut fields = Cursor::root(&tree, cursor.scope).fields()?;
    let refresh_on = fields
        .required("refresh-on")
        .and_then(|statuses| statuses.list(status));
    let stream_errors = fields.maybe("stream-errors", Cursor::bool);
    let rules = fields.required("rule").and_then(|rules| rules.list(rule));
    fields.finish();
    Some(Dialect {
        name: cursor.string()?,
        rules: rules?,
        refresh_on: refresh_on?,
        stream_errors: stream_errors?.unwrap_or_default(),
    })
}

fn rule(cursor: &Cursor<'_>) -> Option<DialectRule> {
    let mut fields = cursor.fields()?;
    let statuses = fields.maybe("status", |statuses| statuses.list(status));
    let code = fields.maybe("code", Cursor::strings);
    let message = fields.maybe("message", Cursor::string);
    let limit = fields.maybe("limit", Cursor::string);
    let with_retry_after = fields.maybe("with-retry-after", Cursor::bool);
    let word = fields.required("verdict").and_then(|word| {
        word.choice::<ReadVerdict>(&[
            ("exhausted", exhausted),
            ("pass", |_| Some(Verdict::Pass)),
            ("retry", retry),
        ])
    });
    let verdict = word.and_then(|read| read(&mut fields));
    // Without a verdict nobody knows which keys belong to it.
    if word.is_some() {
        fields.finish();
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

fn retry(fields: &mut Fields<'_>) -> Option<Verdict> {
    let pace = fields.maybe("pace", |pace| {
        pace.choice(&[("fewer-at-once", Pace::FewerAtOnce), ("ramp", Pace::Ramp)])
    });
    let at_least = fields.maybe("at-least", Cursor::duration);
    Some(Verdict::Retry {
        pace: pace?.unwrap_or(Pace::Same),
        at_least: at_least?,
    })
}

fn exhausted(fields: &mut Fields<'_>) -> Option<Verdict> {
    let until = fields.required("until")?;
    until_when(&until, fields).map(Verdict::Exhausted)
}

/// Only calendar times have a zone, and only a month begins on a day of one's own.
fn until_when(word: &Cursor<'_>, fields: &mut Fields<'_>) -> Option<Until> {
    const WORDS: [&str; 4] = ["unknown", "day", "week", "month"];
    Some(match word.str()? {
        "unknown" => Until::Unknown,
        "day" => Until::Day(zone(fields)?),
        "week" => Until::Week(zone(fields)?),
        "month" => Until::Month {
            zone: zone(fields)?,
            // Every month has 28 days.
            anchor_day: fields.maybe("anchor-day", |day| day.integer(1, 28))?,
        },
        text => match units::duration(text).filter(|longest| !longest.is_zero()) {
            Some(longest) => Until::AtMost(longest),
            None => word.expected(
                "a duration above 0s, or \"unknown\", \"day\", \"week\", \"month\"",
                suggestion(text, &WORDS),
            )?,
        },
    })
}

fn zone(fields: &mut Fields<'_>) -> Option<TimeZone> {
    let zone = fields.maybe("zone", |zone| {
        zone.parse("the name of a time zone", "Asia/Shanghai", |name| {
            TimeZone::get(name).ok()
        })
    })?;
    Some(zone.unwrap_or(TimeZone::UTC))
}

fn status(cursor: &Cursor<'_>) -> Option<StatusCode> {
    StatusCode::from_u16(cursor.integer(100, 599)?).ok()
}
