//! OpenRouter: numbers for codes, and a name for some limits.

use serde_json::{Value, json};

use super::{FEWER_AT_ONCE, PASS, RETRY, Said, USED_UP, exhausted_for};

fn error(code: u16, message: &str, metadata: &Value) -> Said {
    let error = json!({ "message": message, "code": code, "metadata": metadata });
    Said::new(code, json!({ "error": error, "user_id": "user_1" }))
}

/// An error that comes after the head, as data of a chunk without content.
fn in_stream(code: impl Into<Value>, message: &str) -> Said {
    let chunk = json!({
        "id": "gen-1",
        "object": "chat.completion.chunk",
        "error": { "code": code.into(), "message": message },
        "choices": [{ "index": 0, "delta": { "content": "" }, "finish_reason": "error" }],
    });
    Said::new(200, format!(": OPENROUTER PROCESSING\n\ndata: {chunk}\n\n"))
}

#[test]
fn the_days_free_requests_are_exhausted_until_midnight_utc() {
    let message = "Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 free \
                   model requests per day";
    let metadata = json!({ "headers": { "X-RateLimit-Remaining": "0" } });
    let said = error(429, message, &metadata).header("x-ratelimit-reset", "1795478400000");
    assert_eq!(said.in_dialect("openrouter"), exhausted_for(12));
    assert_eq!(
        in_stream(429, message).in_dialect("openrouter"),
        exhausted_for(12)
    );
}

#[test]
fn the_minutes_free_requests_are_retried() {
    let message = "Rate limit exceeded: free-models-per-min. ";
    assert_eq!(
        error(429, message, &Value::Null).in_dialect("openrouter"),
        RETRY
    );
    assert_eq!(in_stream(429, message).in_dialect("openrouter"), RETRY);
}

#[test]
fn a_busy_provider_is_retried() {
    let message = "Provider returned error";
    let raw = "openai/gpt-oss is temporarily rate-limited upstream: insufficient_quota";
    let metadata = json!({ "raw": raw, "provider_name": "Someone" });
    assert_eq!(
        error(429, message, &metadata).in_dialect("openrouter"),
        RETRY
    );
    assert_eq!(in_stream(429, message).in_dialect("openrouter"), RETRY);
    assert_eq!(
        error(502, message, &metadata).in_dialect("openrouter"),
        PASS
    );
    assert_eq!(in_stream(502, message).in_dialect("openrouter"), PASS);
}

#[test]
fn no_credit_is_exhausted() {
    let message = "Insufficient credits. Add more using https://openrouter.ai/settings/credits";
    assert_eq!(
        error(402, message, &Value::Null).in_dialect("openrouter"),
        USED_UP
    );
    let other = json!({ "limit_source": "openrouter_key_limit" });
    let said = error(402, message, &other).header("retry-after", "3");
    assert_eq!(said.in_dialect("openrouter"), USED_UP);
    assert_eq!(in_stream(402, message).in_dialect("openrouter"), USED_UP);
}

#[test]
fn a_budget_bound_by_what_is_in_flight_is_retried_with_fewer_at_once() {
    let metadata = json!({ "limit_source": "openrouter_in_flight_budget" });
    let said = || error(402, "This request needs more than what is left", &metadata);
    let named = said().header("retry-after", "3");
    assert_eq!(named.in_dialect("openrouter"), FEWER_AT_ONCE);
    assert_eq!(said().in_dialect("openrouter"), USED_UP);
}

#[test]
fn a_failure_in_a_stream_that_is_no_limit_passes() {
    let failed = in_stream("server_error", "Provider disconnected unexpectedly");
    assert_eq!(failed.in_dialect("openrouter"), PASS);
}
