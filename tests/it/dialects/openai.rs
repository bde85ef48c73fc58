//! OpenAI and those that speak like it, Gemini among them.

use std::time::Duration;

use pacegate_layers::{pacing::Recovery, retry_on_429::Verdict};
use serde_json::{Value, json};

use super::{PASS, RETRY, Said, USED_UP, compatible, exhausted_for};

fn error(status: u16, kind: &str, code: &str, message: &str) -> Said {
    let error = json!({ "message": message, "type": kind, "param": null, "code": code });
    Said::new(status, json!({ "error": error }))
}

/// The same as the first event of a stream: no status is named.
fn as_data(said: &Said) -> Said {
    Said::new(200, format!("data: {}\n\n", said.body))
}

/// Google's own shape; in the OpenAI-compatible one it is the only element of a list.
fn gemini(quota_ids: &[&str]) -> [Said; 2] {
    let violations: Vec<_> = quota_ids
        .iter()
        .map(|id| json!({ "quotaMetric": "generativelanguage.googleapis.com/requests", "quotaId": id }))
        .collect();
    let body = json!({ "error": {
        "code": 429,
        "message": "You exceeded your current quota, please check your plan and billing details.",
        "status": "RESOURCE_EXHAUSTED",
        "details": [
            { "@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": violations },
            { "@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.07s" },
        ],
    } });
    [
        Said::new(429, &body),
        Said::new(429, Value::from(vec![body])),
    ]
}

#[test]
fn a_rate_limit_is_retried() {
    for kind in ["requests", "tokens"] {
        let message = "Rate limit reached for gpt on requests per min. Please try again in 41.7s.";
        let said = error(429, kind, "rate_limit_exceeded", message);
        assert_eq!(said.in_dialect("openai"), RETRY);
        assert_eq!(as_data(&said).in_dialect("openai"), RETRY);
    }
    let said = compatible(400, "rate_limit_exceeded", "Slow down");
    assert_eq!(said.in_dialect("openai"), RETRY);
}

#[test]
fn an_insufficient_quota_is_exhausted() {
    let message = "You exceeded your current quota, please check your plan and billing details.";
    for status in [429, 403] {
        let said = error(status, "insufficient_quota", "insufficient_quota", message);
        assert_eq!(said.in_dialect("openai"), USED_UP);
        assert_eq!(as_data(&said).in_dialect("openai"), USED_UP);
    }
    let only_type = json!({ "error": { "type": "insufficient_quota", "message": message } });
    assert_eq!(Said::new(429, only_type).in_dialect("openai"), USED_UP);
}

#[test]
fn billing_is_exhausted() {
    for code in ["billing_hard_limit_reached", "billing_not_active"] {
        let said = compatible(429, code, "Your account is not active");
        assert_eq!(said.in_dialect("openai"), USED_UP, "{code}");
    }
}

#[test]
fn geminis_day_is_exhausted_until_midnight_in_california() {
    let day = "GenerateRequestsPerDayPerProjectPerModel-FreeTier";
    let minute = "GenerateRequestsPerMinutePerProjectPerModel-FreeTier";
    for said in gemini(&[day]).into_iter().chain(gemini(&[minute, day])) {
        assert_eq!(
            said.in_dialect("openai"),
            exhausted_for(20),
            "{}",
            said.body
        );
    }
}

#[test]
fn geminis_minute_is_retried() {
    for said in gemini(&["GenerateContentInputTokensPerModelPerMinute-FreeTier"]) {
        assert_eq!(said.in_dialect("openai"), RETRY, "{}", said.body);
    }
}

#[test]
fn an_overloaded_engine_is_retried_slowly() {
    let slowly = Verdict::Retry {
        recovery: Recovery::Same,
        at_least: Duration::from_secs(120),
    };
    let said = compatible(
        429,
        "engine_overloaded_error",
        "The engine is currently overloaded",
    );
    assert_eq!(said.in_dialect("openai"), slowly);
}

#[test]
fn a_broken_engine_in_a_stream_passes() {
    let said = error(
        500,
        "server_error",
        "server_error",
        "The server had an error",
    );
    assert_eq!(as_data(&said).in_dialect("openai"), PASS);
}
