//! The Qwen OAuth portal: a day's quota in two wordings under two statuses.

use super::{RETRY, as_event, compatible, exhausted_for, native};

#[test]
fn the_days_quota_is_exhausted_until_midnight_in_shanghai() {
    for status in [429, 403] {
        let insufficient = "You exceeded your current quota";
        let free = "Free allocated quota exceeded.";
        for said in [
            compatible(status, "insufficient_quota", insufficient),
            compatible(status, "insufficient_quota", free),
            compatible(status, "access_denied", free),
            native(status, "insufficient_quota", insufficient),
            native(status, "Throttling.AllocationQuota", free),
        ] {
            assert_eq!(
                said.in_dialect("qwen-oauth"),
                exhausted_for(4),
                "{}",
                said.body
            );
            let event = as_event(&said);
            assert_eq!(
                event.in_dialect("qwen-oauth"),
                exhausted_for(4),
                "{}",
                event.body
            );
        }
    }
}

#[test]
fn the_minutes_limit_is_retried() {
    let said = compatible(429, "limit_requests", "Requests rate limit exceeded");
    assert_eq!(said.in_dialect("qwen-oauth"), RETRY);
    assert_eq!(as_event(&said).in_dialect("qwen-oauth"), RETRY);
}
