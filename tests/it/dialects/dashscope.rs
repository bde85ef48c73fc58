//! DashScope (Model Studio, pay as you go): a code of its own and an OpenAI-compatible one for the
//! same thing, and a throttle that is called a quota.

use super::{PASS, RAMP, RETRY, Said, USED_UP, as_event, compatible, native};
use pacegate_layers::retry_on_429::Verdict;

/// Checks `said` as an answer and as the first event of a stream.
#[track_caller]
fn assert_means(verdict: Verdict, said: Said) {
    assert_eq!(said.in_dialect("dashscope"), verdict, "{}", said.body);
    let event = as_event(&said);
    assert_eq!(event.in_dialect("dashscope"), verdict, "{}", event.body);
}

/// Checks every shape of one limit, and a last one with another case.
#[track_caller]
fn assert_row(verdict: Verdict, status: u16, codes: [&str; 2], message: &str) {
    let [own, common] = codes;
    assert_means(verdict, native(status, own, message));
    assert_means(verdict, compatible(status, common, message));
    assert_means(verdict, native(status, &own.to_uppercase(), message));
}

#[test]
fn requests_a_minute_are_retried_with_longer_gaps() {
    let message = "Requests rate limit exceeded, please try again later.";
    assert_row(
        RAMP,
        429,
        ["Throttling.RateQuota", "limit_requests"],
        message,
    );
    assert_means(RAMP, compatible(429, "LimitRequests", message));
}

#[test]
fn the_current_quota_is_a_throttle_by_tokens_and_retried() {
    let message = "You exceeded your current quota, please check your plan and billing details. \
                   For more information on this error, read the docs.";
    let codes = ["Throttling.AllocationQuota", "insufficient_quota"];
    assert_row(RETRY, 429, codes, message);
    assert_row(
        RETRY,
        429,
        codes,
        "Allocated quota exceeded, please increase your quota limit.",
    );
}

#[test]
fn the_free_quota_is_exhausted() {
    let codes = ["Throttling.AllocationQuota", "insufficient_quota"];
    assert_row(USED_UP, 429, codes, "Free allocated quota exceeded.");
}

#[test]
fn a_burst_is_retried_with_a_ramp() {
    let codes = ["Throttling.BurstRate", "limit_burst_rate"];
    let message = "Request rate increased too quickly. To ensure system stability, please adjust \
                   your client logic to scale requests more smoothly over time.";
    assert_row(RAMP, 429, codes, message);
}

#[test]
fn plain_throttling_is_retried() {
    for message in [
        "Requests throttling triggered.",
        "Too many requests in route. Please try again later.",
    ] {
        assert_row(RETRY, 429, ["Throttling"; 2], message);
    }
}

#[test]
fn a_message_of_null_is_known_by_its_code() {
    assert_means(RETRY, native(429, "THROTTLING.userQPSLimit", None::<&str>));
}

#[test]
fn billing_is_exhausted() {
    for code in [
        "CommodityNotPurchased",
        "PrepaidBillOverdue",
        "PostpaidBillOverdue",
    ] {
        assert_row(USED_UP, 429, [code; 2], "The bill is overdue.");
        assert_row(PASS, 400, [code; 2], "The bill is overdue.");
    }
}

#[test]
fn an_account_in_arrears_is_exhausted() {
    for status in [400, 403] {
        let message = "Access denied, please make sure your account is in good standing.";
        assert_row(USED_UP, status, ["Arrearage"; 2], message);
    }
}

#[test]
fn a_free_tier_that_may_not_be_paid_for_is_exhausted() {
    let message = "The free tier of the model has been exhausted. If you wish to continue access \
                   the model on a paid basis, please disable the \"use free tier only\" mode.";
    assert_row(USED_UP, 403, ["AllocationQuota.FreeTierOnly"; 2], message);
}

#[test]
fn a_refused_prompt_that_quotes_a_limit_passes() {
    let message = "The prompt speaks of Free allocated quota exceeded";
    assert_means(PASS, compatible(400, "invalid_parameter_error", message));
}
