//! How long an answer asks to wait. Input: header fields, an empty line, the answer's text.

use std::time::{Duration, SystemTime};

use http::header;
use pacegate_layers::retry_on_429::retry_after::requested_wait;

use super::input;

/// 2026-11-23, 12:00 UTC.
const NOW: Duration = Duration::from_secs(1_795_435_200);

/// Whole seconds are those seconds, whatever else is there but the field that comes first.
pub fn run(input: &[u8]) {
    let (headers, text) = input::message(input);
    let text = String::from_utf8_lossy(text);
    let now = SystemTime::UNIX_EPOCH + NOW;
    let wait = requested_wait(&headers, &text, now);
    assert_eq!(wait, requested_wait(&headers, &text, now));
    let seconds = headers
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .filter(|value| value.len() < 7 && value.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|value| value.parse().ok())
        .filter(|seconds| *seconds > 0);
    if let Some(seconds) = seconds
        && !headers.contains_key("retry-after-ms")
    {
        assert_eq!(wait, Some(Duration::from_secs(seconds)));
    }
}
