//! The Coding Plan: one code for everything, so the message decides.

use std::time::Duration;

use pacegate_layers::{
    pacing::Recovery,
    retry_on_429::{Classify, PeekedResponse, Verdict},
};

use super::{
    DialectClassifier, FEWER_AT_ONCE, HeaderMap, PASS, Said, StatusCode, USED_UP, as_event,
    compatible, dialect_of, exhausted_for, monday, native,
};

fn limit(message: &str) -> Said {
    compatible(429, "insufficient_quota", message)
}

#[track_caller]
fn assert_row(verdict: Verdict, message: &str) {
    for said in [
        limit(message),
        native(429, "Throttling.AllocationQuota", message),
    ] {
        assert_eq!(said.in_dialect("coding-plan"), verdict, "{}", said.body);
        let event = as_event(&said);
        assert_eq!(event.in_dialect("coding-plan"), verdict, "{}", event.body);
    }
}

#[test]
fn the_hours_quota_is_exhausted_for_five_hours_at_most() {
    assert_row(exhausted_for(5), "hour allocated quota exceeded");
}

#[test]
fn the_weeks_quota_is_exhausted_until_monday_in_shanghai() {
    assert_row(exhausted_for(6 * 24 + 4), "week allocated quota exceeded");
}

#[test]
fn the_months_quota_is_exhausted_until_a_day_that_only_the_owner_knows() {
    assert_row(USED_UP, "month allocated quota exceeded");

    let plan = "[[upstream]]\npreset = \"coding-plan\"\n";
    let mine = format!(
        "{plan}jitter-throttle.quotas = [{{ requests = 90000, per = \"month\", zone = \
         \"Asia/Shanghai\", anchor-day = 25 }}]\n"
    );
    for (config, verdict) in [(plan, USED_UP), (&*mine, exhausted_for(24 + 4))] {
        let classifier = DialectClassifier::with_clock(&dialect_of(config), monday);
        let said = limit("month allocated quota exceeded");
        let found = classifier.classify(&PeekedResponse {
            status: StatusCode::TOO_MANY_REQUESTS,
            headers: &HeaderMap::new(),
            body: said.body.as_bytes(),
        });
        assert_eq!(found, verdict, "{config}");
    }
}

#[test]
fn concurrency_is_retried_with_fewer_at_once() {
    assert_row(FEWER_AT_ONCE, "concurrency allocated quota exceeded");
}

#[test]
fn usage_is_retried_slowly() {
    let slowly = Verdict::Retry {
        recovery: Recovery::Same,
        at_least: Duration::from_secs(300),
    };
    assert_row(slowly, "usage allocated quota exceeded");
}

#[test]
fn the_wrong_kind_of_key_passes_and_no_other_token_is_tried() {
    let said = compatible(
        401,
        "invalid_api_key",
        "invalid access token or token expired",
    );
    assert_eq!(said.in_dialect("coding-plan"), PASS);
    assert!(super::preset_dialect("coding-plan").refresh_on.is_empty());
}
