//! How long a response asks to wait. Input: headers, an empty line, the response's text.

use std::time::{Duration, SystemTime};

use http::header;
use pacegate_layers::retry_on_429::retry_after::requested_wait;

use super::input;

/// 2026-11-23, 12:00 UTC.
const NOW: Duration = Duration::from_secs(1_795_435_200);

/// A number of seconds is that wait, unless the header that comes first says otherwise.
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
