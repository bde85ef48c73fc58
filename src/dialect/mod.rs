//! Classifies an upstream's responses by the rules of its dialect file.
//!
//! In come the status, the headers and the beginning of the body of a response; out goes a
//! [`Verdict`] for the retry layer: pass, retry or exhausted. The rules come from the [`config`],
//! and the `calendar` computes the end of a day, week or month. It calls no other module.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, StatusCode, header};
use pacegate_layers::{
    pacing::Recovery,
    retry_on_429::{Classify, PeekedResponse, Verdict},
};

use self::error_body::ErrorBody;
use crate::config::{self, Dialect, DialectRule, ResetsAt};

mod decode;
mod error_body;
mod error_event;
mod resets_at;

pub(crate) use decode::decoded_prefix;

/// Classifies responses by a dialect's rules: the first rule that matches decides, and without one
/// the response passes.
///
/// Clones share the rules.
#[derive(Clone, Debug)]
pub struct DialectClassifier(Arc<RuleSet>);

#[derive(Debug)]
struct RuleSet {
    /// With their texts in lower case.
    rules: Vec<DialectRule>,
    stream_errors: bool,
    wall_clock: fn() -> SystemTime,
}

// === impl DialectClassifier ===

impl DialectClassifier {
    /// Classifies by the rules of `dialect`.
    pub fn new(dialect: &Dialect) -> Self {
        Self::with_clock(dialect, SystemTime::now)
    }

    /// The same with another clock, for responses without a `Date`.
    pub fn with_clock(dialect: &Dialect, wall_clock: fn() -> SystemTime) -> Self {
        Self(Arc::new(RuleSet {
            rules: dialect.rules.iter().map(lowercased).collect(),
            stream_errors: dialect.stream_errors,
            wall_clock,
        }))
    }

    /// How long until the reset at `until`, by the upstream's own clock if it sends a `Date`: the
    /// reset happens on its side.
    fn reset(&self, until: &ResetsAt, headers: &HeaderMap) -> Option<Duration> {
        let date = headers
            .get(header::DATE)
            .and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
        resets_at::reset(until, date.unwrap_or_else(self.0.wall_clock))
    }
}

impl Classify for DialectClassifier {
    fn inspects_status(&self, status: StatusCode) -> bool {
        let error = status.is_client_error() || status.is_server_error();
        error && self.0.rules.iter().any(|rule| matches_status(rule, status))
    }

    fn inspects_streams(&self) -> bool {
        self.0.stream_errors
    }

    fn classify(&self, response: &PeekedResponse<'_>) -> Verdict {
        let body = decode::decoded_prefix(response.headers, response.body);
        let (status, document) = if response.status.is_success() {
            match error_event::first_error(&body) {
                Some(error) => (error.status, error.document),
                None => return Verdict::Pass,
            }
        } else {
            (Some(response.status), ErrorBody::read(&body))
        };
        let mut rules = self.0.rules.iter();
        let applies = |rule: &&DialectRule| matches(rule, status, &document, response.headers);
        match rules.find(applies).map(|rule| &rule.verdict) {
            Some(config::RuleVerdict::Exhausted(until)) => Verdict::Exhausted {
                reset: self.reset(until, response.headers),
            },
            Some(config::RuleVerdict::Retry { pace, at_least }) => Verdict::Retry {
                recovery: match pace {
                    config::Pace::FewerAtOnce => Recovery::FewerAtOnce,
                    config::Pace::Ramp => Recovery::Ramp,
                    config::Pace::Same => Recovery::Same,
                },
                at_least: at_least.unwrap_or_default(),
            },
            Some(config::RuleVerdict::Pass) | None => Verdict::Pass,
        }
    }
}

fn lowercased(rule: &DialectRule) -> DialectRule {
    let mut rule = rule.clone();
    let texts = [&mut rule.message, &mut rule.limit].into_iter().flatten();
    for text in rule.code.iter_mut().chain(texts) {
        text.make_ascii_lowercase();
    }
    rule
}

/// An error event need not name a status. Then a rule must match by code, message or limit: a rule
/// for a status alone says nothing about the event.
fn matches(
    rule: &DialectRule,
    status: Option<StatusCode>,
    document: &ErrorBody,
    headers: &HeaderMap,
) -> bool {
    let status_matches = match status {
        Some(status) => matches_status(rule, status),
        None => !rule.code.is_empty() || rule.message.is_some() || rule.limit.is_some(),
    };
    let message = rule.message.as_ref();
    let limit = rule.limit.as_ref();
    status_matches
        && (!rule.with_retry_after || headers.contains_key(header::RETRY_AFTER))
        && (rule.code.is_empty() || rule.code.iter().any(|code| document.has_code(code)))
        && message.is_none_or(|part| document.message_contains(part))
        && limit.is_none_or(|part| document.has_limit(part))
}

fn matches_status(rule: &DialectRule, status: StatusCode) -> bool {
    rule.status.is_empty() || rule.status.contains(&status)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn rule(status: u16, verdict: config::RuleVerdict) -> DialectRule {
        DialectRule {
            status: vec![StatusCode::from_u16(status).unwrap()],
            code: Vec::new(),
            message: None,
            limit: None,
            with_retry_after: false,
            verdict,
        }
    }

    fn classifier() -> DialectClassifier {
        let exhausted = config::RuleVerdict::Exhausted(ResetsAt::AtMost(Duration::from_secs(9)));
        let retry = config::RuleVerdict::Retry {
            pace: config::Pace::Same,
            at_least: None,
        };
        let quota = DialectRule {
            code: vec!["Insufficient_Quota".to_owned()],
            message: Some("Free".to_owned()),
            ..rule(429, exhausted.clone())
        };
        let day = DialectRule {
            limit: Some("PerDay".to_owned()),
            ..rule(429, exhausted)
        };
        let busy = DialectRule {
            with_retry_after: true,
            ..rule(503, retry.clone())
        };
        DialectClassifier::new(&Dialect {
            name: "mine".to_owned(),
            rules: vec![quota, day, rule(429, retry), busy],
            refresh_on: Vec::new(),
            stream_errors: true,
        })
    }

    fn classify(status: u16, body: &str, retry_after: bool) -> Verdict {
        let mut headers = HeaderMap::new();
        if retry_after {
            headers.insert(header::RETRY_AFTER, 1.into());
        }
        classifier().classify(&PeekedResponse {
            status: StatusCode::from_u16(status).unwrap(),
            headers: &headers,
            body: body.as_bytes(),
        })
    }

    const EXHAUSTED: Verdict = Verdict::Exhausted {
        reset: Some(Duration::from_secs(9)),
    };

    #[test]
    fn a_compressed_error_is_decoded() {
        let quota = br#"{"error":{"code":"insufficient_quota","message":"free quota used"}}"#;
        let headers = [(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"))];
        let verdict = classifier().classify(&PeekedResponse {
            status: StatusCode::TOO_MANY_REQUESTS,
            headers: &HeaderMap::from_iter(headers),
            body: &decode::tests::gzip(quota),
        });
        assert_eq!(verdict, EXHAUSTED);
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let quota = r#"{"error":{"code":"insufficient_quota","message":"FREE quota used"}}"#;
        assert_eq!(classify(429, quota, false), EXHAUSTED);
        let rate = r#"{"error":{"type":"insufficient_quota","message":"slow down"}}"#;
        assert_eq!(classify(429, rate, false), Verdict::RETRY);
        let day = r#"{"error":{"metadata":{"limit_source":"requests_per_day_perday"}}}"#;
        assert_eq!(classify(429, day, false), EXHAUSTED);
        assert_eq!(classify(429, "<html>", false), Verdict::RETRY);
        assert_eq!(classify(503, "", false), Verdict::Pass);
        assert_eq!(classify(503, "", true), Verdict::RETRY);
        assert_eq!(classify(500, quota, true), Verdict::Pass);
    }

    #[test]
    fn an_event_without_a_status_must_match_by_text() {
        let quota = "data: {\"error\":{\"code\":\"insufficient_quota\",\"message\":\"free\"}}\n\n";
        assert_eq!(classify(200, quota, false), EXHAUSTED);
        let failed = "data: {\"error\":{\"code\":\"server_error\",\"message\":\"broken\"}}\n\n";
        assert_eq!(classify(200, failed, true), Verdict::Pass);
    }

    #[test]
    fn an_event_with_a_status_is_classified_like_a_response() {
        for (event, verdict) in [
            ("event:error\n:HTTP_STATUS/429\ndata:{}\n\n", Verdict::RETRY),
            ("event:error\n:HTTP_STATUS/500\ndata:{}\n\n", Verdict::Pass),
            ("data: {\"error\":{\"code\":429}}\n\n", Verdict::RETRY),
            ("data: {\"error\":{\"code\":502}}\n\n", Verdict::Pass),
        ] {
            assert_eq!(classify(200, event, false), verdict, "{event}");
        }
    }

    #[test]
    fn only_statuses_in_a_rule_are_inspected() {
        let inspects = |status| classifier().inspects_status(StatusCode::from_u16(status).unwrap());
        assert!(inspects(429) && inspects(503));
        assert!(!inspects(200) && !inspects(400) && !inspects(500));
    }

    #[test]
    fn the_upstreams_clock_tells_when_its_day_ends() {
        let midnight = ResetsAt::Day(jiff::tz::TimeZone::UTC);
        let headers = [(
            header::DATE,
            "Mon, 23 Nov 2026 23:59:50 GMT".parse().unwrap(),
        )];
        let headers = HeaderMap::from_iter(headers);
        let reset = classifier().reset(&midnight, &headers);
        assert_eq!(reset, Some(Duration::from_secs(10)));
    }
}
