//! Faults in the responses to chats.
//!
//! A fault is written `[WHEN/]KIND[@CHUNKS][:KEY=VALUE,…]`, on the command line as over HTTP:
//!
//! - WHEN: `every`, `every3` (each third chat), or the number of the chat counted from 1; without it,
//!   the next chat that no earlier fault applies to.
//! - KIND: a status from 400 to 599; `302:location=URL`; `reset`, `stall`, `truncate`; `end` (a
//!   clean end without `[DONE]`); `error` (an error event inside a 200 stream, then a clean end);
//!   `refused-stream`, `http-1-1-required`, `enhance-your-calm`: RST_STREAM with this error code before
//!   the response headers. Over HTTP/1.1 such a fault closes the connection.
//! - CHUNKS: how many chunks are sent first. `reset` and `stall` without it come before the response
//!   headers. A plain response has one chunk for each 16 KiB.
//! - KEYS, with a status: how the response says when to retry: `retry-after=3` (also `1.5`, or
//!   any nonsense), `date=3`, `date-rfc850=3`, `date-asctime=3` (so many seconds from now),
//!   `retry-after-ms=1500`, `reset-requests=6m0s`, `reset-tokens=1s`, `message=41.7` (in the text);
//!   and `reason=day`: which limit the text names.

use std::{collections::VecDeque, num::NonZeroU64, str::FromStr};

use clap::ValueEnum;
use serde::Deserialize;

use super::{hint::Hint, wording::Reason};

/// A fault, and the chats it applies to.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(try_from = "String")]
pub struct FaultRule {
    /// Which chats.
    pub when: When,
    /// The fault.
    pub fault: Fault,
}

/// The chats a fault applies to. Chats refused by a limit are not counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum When {
    /// All chats.
    Every,
    /// Each chat whose number, counted from 1, is a multiple of this one.
    EveryNth(NonZeroU64),
    /// The next chat that no earlier rule applies to; the rule applies once.
    Next,
    /// The chat with this number, counted from 1.
    Nth(u64),
}

/// A fault in a response.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// The response ends cleanly after so many chunks, without `[DONE]`.
    EarlyEnd(usize),
    /// An error event after so many chunks, then a clean end.
    ErrorEvent(usize),
    /// A 302 to this location.
    Redirect(String),
    /// An error response instead of the chat.
    Refuse(FaultResponse),
    /// An RST, before the response headers or after so many chunks.
    Reset(Option<usize>),
    /// Nothing more on an open connection, before the response headers or after so many chunks.
    Stall(Option<usize>),
    /// RST_STREAM before the response headers; over HTTP/1.1 the connection is closed.
    StreamReset(StreamError),
    /// The connection is closed after so many chunks, without the last chunk.
    Truncate(usize),
}

/// The error code of a stream's reset (RFC 9113, section 7).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StreamError {
    /// The client sends too much.
    EnhanceYourCalm,
    /// The request has to be sent over HTTP/1.1.
    Http11Required,
    /// The request was not processed.
    RefusedStream,
}

/// An error response.
#[derive(Clone, Debug, PartialEq)]
pub struct FaultResponse {
    /// The status.
    pub status: u16,
    /// The limit that the text names; without one, the text follows from the status.
    pub reason: Option<Reason>,
    /// How the response says when to retry.
    pub hints: Vec<Hint>,
}

/// The text is not a fault.
#[derive(Clone, Debug, thiserror::Error)]
#[error("fault `{text}`: {problem}")]
pub struct BadFault {
    text: String,
    problem: &'static str,
}

/// The faults that have not been applied, and those that apply repeatedly.
#[derive(Debug, Default)]
pub(super) struct FaultPlan {
    queue: VecDeque<Fault>,
    seen: u64,
    standing: Vec<FaultRule>,
}

/// Everything but WHEN and KIND.
#[derive(Default)]
struct Details {
    chunks: Option<usize>,
    hints: Vec<Hint>,
    location: Option<String>,
    reason: Option<Reason>,
}

// === impl FaultRule ===

impl FaultRule {
    /// A fault for the next chat.
    pub fn next(fault: Fault) -> Self {
        Self {
            when: When::Next,
            fault,
        }
    }
}

impl FromStr for FaultRule {
    type Err = BadFault;

    fn from_str(text: &str) -> Result<Self, BadFault> {
        parse(text).map_err(|problem| BadFault {
            text: text.to_owned(),
            problem,
        })
    }
}

impl TryFrom<String> for FaultRule {
    type Error = BadFault;

    fn try_from(text: String) -> Result<Self, BadFault> {
        text.parse()
    }
}

// === impl FaultPlan ===

impl FaultPlan {
    pub(super) fn new(rules: Vec<FaultRule>) -> Self {
        let mut plan = Self::default();
        rules.into_iter().for_each(|rule| plan.push(rule));
        plan
    }

    pub(super) fn push(&mut self, rule: FaultRule) {
        match rule.when {
            When::Next => self.queue.push_back(rule.fault),
            When::Every | When::EveryNth(_) | When::Nth(_) => self.standing.push(rule),
        }
    }

    /// Counts a chat and returns its fault: a rule for its number first, then one for its multiples,
    /// then the queue, then a rule for all chats.
    pub(super) fn next_fault(&mut self) -> Option<Fault> {
        self.seen += 1;
        let seen = self.seen;
        let standing = |applies: &dyn Fn(When) -> bool| {
            let rule = self.standing.iter().find(|rule| applies(rule.when))?;
            Some(rule.fault.clone())
        };
        standing(&|when| when == When::Nth(seen))
            .or_else(|| {
                standing(
                    &|when| matches!(when, When::EveryNth(each) if seen.is_multiple_of(each.get())),
                )
            })
            .or_else(|| self.queue.pop_front())
            .or_else(|| standing(&|when| when == When::Every))
    }
}

fn parse(text: &str) -> Result<FaultRule, &'static str> {
    let (head, keys) = text.split_once(':').unwrap_or((text, ""));
    let (when, head) = match head.split_once('/') {
        None => (When::Next, head),
        Some(("every", head)) => (When::Every, head),
        Some((number, head)) => {
            let when = match number.strip_prefix("every") {
                Some(each) => each.parse().map(When::EveryNth),
                None => number.parse().map(When::Nth),
            };
            let expected = "before the slash, expected `every`, `every` and a number, or a number";
            (when.map_err(|_| expected)?, head)
        }
    };
    let (kind, chunks) = head.split_once('@').unzip();
    let mut details = Details::parse(keys)?;
    details.chunks = chunks
        .map(str::parse)
        .transpose()
        .map_err(|_| "after the @, expected a number of chunks")?;
    let fault = details.fault(kind.unwrap_or(head))?;
    Ok(FaultRule { when, fault })
}

// === impl Details ===

impl Details {
    fn parse(keys: &str) -> Result<Self, &'static str> {
        let mut details = Self::default();
        // A location may contain commas, and is the only key of a redirect.
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
            return Ok(Fault::Refuse(FaultResponse {
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
        if let Some(error) = StreamError::named(kind) {
            if self.chunks.is_some() {
                return Err("a stream's reset takes no chunks");
            }
            return Ok(Fault::StreamReset(error));
        }
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

// === impl StreamError ===

impl StreamError {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "enhance-your-calm" => Self::EnhanceYourCalm,
            "http-1-1-required" => Self::Http11Required,
            "refused-stream" => Self::RefusedStream,
            _ => return None,
        })
    }

    pub(super) fn reason(self) -> h2::Reason {
        match self {
            Self::EnhanceYourCalm => h2::Reason::ENHANCE_YOUR_CALM,
            Self::Http11Required => h2::Reason::HTTP_1_1_REQUIRED,
            Self::RefusedStream => h2::Reason::REFUSED_STREAM,
        }
    }
}

const UNKNOWN_KIND: &str = "unknown kind; expected a status from 400 to 599, 302, reset, stall, \
                            truncate, end, error, refused-stream, http-1-1-required or \
                            enhance-your-calm";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_kind() {
        let refuse = |status, reason, hints: &[Hint]| {
            let hints = hints.to_vec();
            Fault::Refuse(FaultResponse {
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
            ("429", When::Next, refuse(429, None, &[])),
            (
                "every/429:retry-after=1.5,retry-after-ms=9",
                When::Every,
                refuse(429, None, &[after, millis]),
            ),
            (
                "3/503:date=9",
                When::Nth(3),
                refuse(503, None, &[Hint::HttpDate(9)]),
            ),
            (
                "403:reason=day",
                When::Next,
                refuse(403, Some(Reason::Day), &[]),
            ),
            (
                "302:location=http://a/b,c",
                When::Next,
                Fault::Redirect("http://a/b,c".into()),
            ),
            ("reset", When::Next, Fault::Reset(None)),
            ("2/stall@4", When::Nth(2), Fault::Stall(Some(4))),
            ("end@1", When::Next, Fault::EarlyEnd(1)),
            (
                "every3/refused-stream",
                When::EveryNth(NonZeroU64::new(3).unwrap()),
                Fault::StreamReset(StreamError::RefusedStream),
            ),
        ] {
            assert_eq!(
                text.parse::<FaultRule>().unwrap(),
                FaultRule { when, fault },
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
            "every0/429",
            "everyx/429",
            "refused-stream@1",
        ] {
            text.parse::<FaultRule>().unwrap_err();
        }
    }

    #[test]
    fn prefers_a_chats_own_fault_and_then_the_queue() {
        let rules = ["every/500", "429", "2/401", "every4/502"].map(|text| text.parse().unwrap());
        let mut plan = FaultPlan::new(rules.into());
        let statuses = std::iter::from_fn(|| match plan.next_fault() {
            Some(Fault::Refuse(response)) => Some(response.status),
            _ => None,
        });
        assert_eq!(
            statuses.take(5).collect::<Vec<_>>(),
            [429, 401, 500, 502, 500]
        );
    }
}
