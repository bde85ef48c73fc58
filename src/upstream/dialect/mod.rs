//! Reads an upstream's answers by the rules of its dialect file.

use std::sync::Arc;

use http::{StatusCode, header};
use pacegate_layers::retry_on_429::{Answer, Classify, Verdict};
use serde_json::Value;

use crate::config::{self, Dialect, DialectRule};

/// Classifies answers by a dialect's rules; the first one that matches decides, and without one an
/// answer passes.
#[derive(Clone, Debug)]
pub struct DialectClassifier(Arc<[DialectRule]>);

/// What error documents have in common: OpenAI's shape, or the same fields without the envelope.
#[derive(Debug, Default)]
struct Document {
    codes: Vec<String>,
    message: String,
}

impl DialectClassifier {
    /// Reads answers as `dialect` says.
    pub fn new(dialect: &Dialect) -> Self {
        Self(dialect.rules.clone().into())
    }
}

impl Classify for DialectClassifier {
    fn concerns(&self, status: StatusCode) -> bool {
        let error = status.is_client_error() || status.is_server_error();
        error && self.0.iter().any(|rule| names(rule, status))
    }

    fn classify(&self, answer: &Answer<'_>) -> Verdict {
        let document = Document::read(answer.body);
        let decides = |rule: &&DialectRule| {
            names(rule, answer.status)
                && (rule.code.is_empty() || rule.code.iter().any(|code| document.has_code(code)))
                && rule
                    .message
                    .as_ref()
                    .is_none_or(|part| document.message.contains(&part.to_ascii_lowercase()))
                && (!rule.with_retry_after || answer.headers.contains_key(header::RETRY_AFTER))
        };
        match self.0.iter().find(decides).map(|rule| rule.verdict) {
            Some(config::Verdict::Retry) => Verdict::RETRY,
            Some(config::Verdict::Pass) | None => Verdict::Pass,
        }
    }
}

fn names(rule: &DialectRule, status: StatusCode) -> bool {
    rule.status.is_empty() || rule.status.contains(&status)
}

impl Document {
    /// The beginning of a body may be cut off, or no JSON at all; then its text is the message.
    fn read(body: &[u8]) -> Self {
        let Ok(whole) = serde_json::from_slice::<Value>(body) else {
            return Self {
                codes: Vec::new(),
                message: String::from_utf8_lossy(body).to_ascii_lowercase(),
            };
        };
        let error = whole.get("error").filter(|error| error.is_object());
        let error = error.unwrap_or(&whole);
        let text = |key: &str| match error.get(key) {
            Some(Value::String(text)) => Some(text.clone()),
            Some(Value::Number(number)) => Some(number.to_string()),
            _ => None,
        };
        Self {
            codes: ["code", "type"].into_iter().filter_map(text).collect(),
            message: text("message").unwrap_or_default().to_ascii_lowercase(),
        }
    }

    fn has_code(&self, code: &str) -> bool {
        self.codes
            .iter()
            .any(|known| known.eq_ignore_ascii_case(code))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn rule(
        status: u16,
        code: &[&str],
        message: Option<&str>,
        verdict: config::Verdict,
    ) -> DialectRule {
        DialectRule {
            status: vec![StatusCode::from_u16(status).unwrap()],
            code: code.iter().map(|code| (*code).to_owned()).collect(),
            message: message.map(str::to_owned),
            with_retry_after: false,
            verdict,
        }
    }

    fn classifier() -> DialectClassifier {
        DialectClassifier(
            [
                rule(
                    429,
                    &["insufficient_quota"],
                    Some("Free"),
                    config::Verdict::Pass,
                ),
                rule(429, &["Throttling"], None, config::Verdict::Pass),
                rule(429, &[], None, config::Verdict::Retry),
                DialectRule {
                    with_retry_after: true,
                    ..rule(503, &[], None, config::Verdict::Retry)
                },
            ]
            .into(),
        )
    }

    fn classify(status: u16, body: &str, retry_after: bool) -> Verdict {
        let mut headers = HeaderMap::new();
        if retry_after {
            headers.insert(header::RETRY_AFTER, 1.into());
        }
        classifier().classify(&Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: &headers,
            body: body.as_bytes(),
        })
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let quota = r#"{"error":{"code":"insufficient_quota","message":"FREE quota used"}}"#;
        assert_eq!(classify(429, quota, false), Verdict::Pass);
        let rate = r#"{"error":{"type":"insufficient_quota","message":"slow down"}}"#;
        assert_eq!(classify(429, rate, false), Verdict::RETRY);
        let native = r#"{"code":"throttling","message":null}"#;
        assert_eq!(classify(429, native, false), Verdict::Pass);
        assert_eq!(classify(429, "<html>", false), Verdict::RETRY);
        assert_eq!(classify(503, "", false), Verdict::Pass);
        assert_eq!(classify(503, "", true), Verdict::RETRY);
        assert_eq!(classify(500, quota, true), Verdict::Pass);
    }

    #[test]
    fn only_statuses_that_a_rule_names_are_read() {
        let concerns = |status| classifier().concerns(StatusCode::from_u16(status).unwrap());
        assert!(concerns(429) && concerns(503));
        assert!(!concerns(200) && !concerns(400) && !concerns(500));
    }
}
