//! What goes wrong with chats, and with which.
//!
//! A fault is written `[WHEN/]KIND[@CHUNKS][:KEY=VALUE,…]`, on the command line as over HTTP:
//!
//! - WHEN: `every`, or the number of the chat counted from 1; without it, the next chat that no
//!   earlier fault has taken.
//! - KIND: a status from 400 to 599; `302:location=URL`; `reset`, `stall`, `truncate`; `end` (a
//!   clean end without `[DONE]`); `error` (an error event inside a 200 stream, then a clean end).
//! - CHUNKS: how many chunks go out first. `reset` and `stall` without it come before the head.
//!   A plain answer has one chunk for each 16 KiB.
//! - KEYS, with a status: how the answer says when to come back: `retry-after=3` (also `1.5`, or
//!   any nonsense), `date=3`, `date-rfc850=3`, `date-asctime=3` (so many seconds from now),
//!   `retry-after-ms=1500`, `reset-requests=6m0s`, `reset-tokens=1s`, `message=41.7` (in the text);
//!   and `reason=day`: which limit the text speaks of.

use std::{collections::VecDeque, str::FromStr};

use clap::ValueEnum;
use serde::Deserialize;

use super::{hint::Hint, wording::Reason};

/// One fault and the chats it strikes.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(try_from = "String")]
pub struct Rule {
    /// Which chats.
    pub when: When,
    /// What happens to them.
    pub fault: Fault,
}

/// Which chats a fault strikes. Those refused by a limit are none.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum When {
    /// All.
    Every,
    /// The next one that no earlier rule has taken; then the rule is used up.
    Next,
    /// The one with this number, counted from 1.
    Nth(u64),
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// The answer ends cleanly after so many chunks, without `[DONE]`.
    EarlyEnd(usize),
    /// An error event after so many chunks, then a clean end.
    ErrorEvent(usize),
    /// A 302 to this location.
    Redirect(String),
    /// An error instead of an answer.
    Refuse(Refusal),
    /// An RST, before the head or after so many chunks.
    Reset(Option<usize>),
    /// Silence on an open connection, before the head or after so many chunks.
    Stall(Option<usize>),
    /// The connection is closed after so many chunks, without a final one.
    Truncate(usize),
}

/// An error answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// The status.
    pub status: u16,
    /// The limit to speak of; without one, the text that fits the status.
    pub reason: Option<Reason>,
    /// How it says when to come back, in as many ways as there are.
    pub hints: Vec<Hint>,
}

/// A text that is no fault.
#[derive(Clone, Debug, thiserror::Error)]
#[error("fault `{text}`: {problem}")]
pub struct BadFault {
    text: String,
    problem: &'static str,
}

/// The faults to come.
#[derive(Debug, Default)]
pub(super) struct Plan {
    queue: VecDeque<Fault>,
    seen: u64,
    standing: Vec<Rule>,
}

/// Everything but WHEN and KIND.
#[derive(Default)]
struct Details {
    chunks: Option<usize>,
    hints: Vec<Hint>,
    location: Option<String>,
    reason: Option<Reason>,
}

// === impl Rule ===

impl Rule {
    /// A fault for the next chat.
    pub fn next(fault: Fault) -> Self {
        Self {
            when: When::Next,
            fault,
        }
    }
}

impl FromStr for Rule {
    type Err = BadFault;

    fn from_str(text: &str) -> Result<Self, BadFault> {
        parse(text).map_err(|problem| BadFault {
            text: text.to_owned(),
            problem,
        })
    }
}

impl TryFrom<String> for Rule {
    type Error = BadFault;

    fn try_from(text: String) -> Result<Self, BadFault> {
        text.parse()
    }
}

// === impl Plan ===

impl Plan {
    pub(super) fn new(rules: Vec<Rule>) -> Self {
        let mut plan = Self::default();
        rules.into_iter().for_each(|rule| plan.push(rule));
        plan
    }

    pub(super) fn push(&mut self, rule: Rule) {
        match rule.when {
            When::Next => self.queue.push_back(rule.fault),
            When::Every | When::Nth(_) => self.standing.push(rule),
        }
    }

    /// Counts a chat and says what goes wrong with it: its number first, then the queue, then what
    /// strikes all.
    pub(super) fn strike(&mut self) -> Option<Fault> {
        self.seen += 1;
        let standing = |when| {
            let rule = self.standing.iter().find(|rule| rule.when == when)?;
            Some(rule.fault.clone())
        };
        standing(When::Nth(self.seen))
            .or_else(|| self.queue.pop_front())
            .or_else(|| standing(When::Every))
    }
}

fn parse(text: &str) -> Result<Rule, &'static str> {
    let (head, keys) = text.split_once(':').unwrap_or((text, ""));
    let (when, head) = match head.split_once('/') {
        None => (When::Next, head),
        Some(("every", head)) => (When::Every, head),
        Some((number, head)) => {
            let number = number.parse();
            let number = number.map_err(|_| "before the slash, expected `every` or a number")?;
            (When::Nth(number), head)
        }
    };
    let (kind, chunks) = head.split_once('@').unzip();
    let mut details = Details::parse(keys)?;
    details.chunks = chunks
        .map(str::parse)
        .transpose()
        .map_err(|_| "after the @, expected a number of chunks")?;
    let fault = details.fault(kind.unwrap_or(head))?;
    Ok(Rule { when, fault })
}

// === impl Details ===

impl Details {
    fn parse(keys: &str) -> Result<Self, &'static str> {
        let mut details = Self::default();
        // A location may hold commas, and is the only key that goes with a redirect.
        if let Some(location) = keys.strip_prefix("location=") {
            details.location = Some(location.to_owned());
            return Ok(details);
        }
        let keys = keys.split(',').map(str::trim).filter(|key| !key.is_empty());
        for key in keys {
            let (key, value) = key
                .split_once('=')
                .ok_or("expected KEY=VALUE after the colon")?;
            if key == "reason" {
                let reason = Reason::from_str(value, false);
                details.reason = Some(reason.map_err(|_| "unknown reason")?);
            } else {
                details.hints.push(Hint::parse(key, value)?);
            }
        }
        Ok(details)
    }

    fn fault(self, kind: &str) -> Result<Fault, &'static str> {
        let status = kind
            .parse()
            .ok()
            .filter(|status| (400..600).contains(status));
        if let Some(status) = status {
            if self.chunks.is_some() || self.location.is_some() {
                return Err("a status takes neither chunks nor a location");
            }
            return Ok(Fault::Refuse(Refusal {
                status,
                reason: self.reason,
                hints: self.hints,
            }));
        }
        if self.reason.is_some() || !self.hints.is_empty() {
            return Err("only a status takes these keys");
        }
        let after = self
            .chunks
            .ok_or("expected @ and a number of chunks after this kind");
        Ok(match kind {
            "302" => Fault::Redirect(self.location.ok_or("expected 302:location=URL")?),
            "end" => Fault::EarlyEnd(after?),
            "error" => Fault::ErrorEvent(after?),
            "reset" => Fault::Reset(self.chunks),
            "stall" => Fault::Stall(self.chunks),
            "truncate" => Fault::Truncate(after?),
            _ => return Err(UNKNOWN_KIND),
        })
    }
}

const UNKNOWN_KIND: &str = "unknown kind; expected a status from 400 to 599, 302, reset, stall, \
                            truncate, end or error";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_kind() {
        let refusal = |status, reason, hints: &[Hint]| {
            let hints = hints.to_vec();
            Fault::Refuse(Refusal {
                status,
                reason,
                hints,
            })
        };
        let (after, millis) = (
            Hint::RetryAfter("1.5".into()),
            Hint::RetryAfterMs("9".into()),
        );
        for (text, when, fault) in [
            ("429", When::Next, refusal(429, None, &[])),
            (
                "every/429:retry-after=1.5,retry-after-ms=9",
                When::Every,
                refusal(429, None, &[after, millis]),
            ),
            (
                "3/503:date=9",
                When::Nth(3),
                refusal(503, None, &[Hint::HttpDate(9)]),
            ),
            (
                "403:reason=day",
                When::Next,
                refusal(403, Some(Reason::Day), &[]),
            ),
            (
                "302:location=http://a/b,c",
                When::Next,
                Fault::Redirect("http://a/b,c".into()),
            ),
            ("reset", When::Next, Fault::Reset(None)),
            ("2/stall@4", When::Nth(2), Fault::Stall(Some(4))),
            ("end@1", When::Next, Fault::EarlyEnd(1)),
        ] {
            assert_eq!(
                text.parse::<Rule>().unwrap(),
                Rule { when, fault },
                "{text}"
            );
        }
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for text in [
            "",
            "200",
            "nonsense",
            "truncate",
            "reset@x",
            "soon/429",
            "429:when=3",
            "302",
            "429@2",
            "reset:retry-after=3",
        ] {
            text.parse::<Rule>().unwrap_err();
        }
    }

    #[test]
    fn prefers_a_chats_own_fault_and_then_the_queue() {
        let rules = ["every/500", "429", "2/401"].map(|text| text.parse().unwrap());
        let mut plan = Plan::new(rules.into());
        let statuses = std::iter::from_fn(|| match plan.strike() {
            Some(Fault::Refuse(refusal)) => Some(refusal.status),
            _ => None,
        });
        assert_eq!(statuses.take(3).collect::<Vec<_>>(), [429, 401, 500]);
    }
}
