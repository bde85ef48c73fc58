//! How long a response asks to wait, in every form found in the wild.
//!
//! Pure functions over headers and text. A value that is no sensible time (zero, negative, not a
//! number, too large) is ignored, and the next form is tried.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, header};

/// The first valid wait among, in this order: `retry-after-ms`; `Retry-After` in seconds, decimals
/// or one of the three date forms ([RFC 9110 §10.2.3] and §5.6.7); `x-ratelimit-reset*` whose
/// `x-ratelimit-remaining*` is 0; a delay named in the text.
///
/// Dates are measured against the response's own `Date`, because the two clocks need not agree;
/// without one, against `now`. A date in the past is zero.
///
/// [RFC 9110 §10.2.3]: https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3
pub fn requested_wait(headers: &HeaderMap, text: &str, now: SystemTime) -> Option<Duration> {
    let field = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let now = field(header::DATE.as_str())
        .and_then(|date| httpdate::parse_http_date(date).ok())
        .unwrap_or(now);
    field("retry-after-ms")
        .and_then(positive)
        .and_then(|ms| seconds(ms / 1000.0))
        .or_else(|| field("retry-after").and_then(|value| retry_after(value, now)))
        .or_else(|| rate_limit_reset(field, now))
        .or_else(|| named_delay(text))
}

/// `wait` as the value of `Retry-After` ([RFC 9110 §10.2.3]): whole seconds, rounded up, at least
/// one. Zero would make the client return at once.
///
/// [RFC 9110 §10.2.3]: https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3
pub fn delay_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    positive(value).and_then(seconds).or_else(|| {
        let date = httpdate::parse_http_date(value).ok()?;
        Some(date.duration_since(now).unwrap_or(Duration::ZERO))
    })
}

/// The longest reset among the limits that are reached: a request needs all of them.
fn rate_limit_reset<'a>(
    field: impl Fn(&str) -> Option<&'a str>,
    now: SystemTime,
) -> Option<Duration> {
    ["", "-requests", "-tokens"]
        .into_iter()
        .filter(|kind| field(&format!("x-ratelimit-remaining{kind}")) == Some("0"))
        .filter_map(|kind| reset(field(&format!("x-ratelimit-reset{kind}"))?, now))
        .max()
}

/// `6m0s`, seconds, or an instant as seconds or milliseconds since 1970.
fn reset(value: &str, now: SystemTime) -> Option<Duration> {
    /// A larger number of seconds is an instant: as a duration it would be thirty years.
    const EPOCH_SECONDS: f64 = 1e9;
    /// A larger number counts milliseconds: as seconds it would be the year 5138.
    const EPOCH_MILLIS: f64 = 1e11;

    let Some(number) = positive(value) else {
        return units(value).filter(|wait| !wait.is_zero());
    };
    if number < EPOCH_SECONDS {
        return seconds(number);
    }
    let since_epoch = if number < EPOCH_MILLIS {
        number
    } else {
        number / 1000.0
    };
    let instant = SystemTime::UNIX_EPOCH.checked_add(seconds(since_epoch)?)?;
    Some(instant.duration_since(now).unwrap_or(Duration::ZERO))
}

/// A delay in prose or JSON: `Please try again in 41.7s`, `"retryDelay": "6s"`.
fn named_delay(text: &str) -> Option<Duration> {
    const BEFORE_A_DELAY: [&str; 5] = [
        "try again in",
        "retry in",
        "retry after",
        "retrydelay",
        "wait",
    ];

    let text = text.to_ascii_lowercase();
    BEFORE_A_DELAY.into_iter().find_map(|before| {
        text.match_indices(before).find_map(|(at, _)| {
            let rest = &text[at + before.len()..];
            units(rest.trim_start_matches([' ', ':', '"', '\'', '\\', '=']))
        })
    })
}

/// One or more numbers, each with a unit, at the start of `text`.
fn units(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = None::<Duration>;
    while rest.starts_with(|c: char| c.is_ascii_digit()) {
        let (number, after) = split(rest, |c| c.is_ascii_digit() || c == '.');
        let (unit, after) = split(after.trim_start_matches(' '), |c| c.is_ascii_alphabetic());
        let factor = match unit {
            "ms" | "millisecond" | "milliseconds" => 0.001,
            "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
            "m" | "min" | "mins" | "minute" | "minutes" => 60.0,
            "h" | "hour" | "hours" => 3600.0,
            _ => break,
        };
        let part = seconds(decimal(number)? * factor)?;
        total = Some(total.unwrap_or_default().checked_add(part)?);
        rest = after;
    }
    total
}

fn split(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

/// Digits with at most one point; `f64` would also accept a sign, an exponent, `inf` and `nan`.
fn decimal(text: &str) -> Option<f64> {
    let plain = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    if plain { text.parse().ok() } else { None }
}

/// Providers write 0 and -1 for unknown values.
fn positive(text: &str) -> Option<f64> {
    decimal(text).filter(|number| *number > 0.0)
}

fn seconds(number: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(number).ok()
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    /// Mon, 23 Nov 2026 12:00:00 GMT.
    fn now() -> SystemTime {
        httpdate::parse_http_date("Mon, 23 Nov 2026 12:00:00 GMT").unwrap()
    }

    fn wait_of(fields: &[(&str, &str)], text: &str) -> Option<f64> {
        let headers = fields
            .iter()
            .map(|(name, value)| {
                let name = HeaderName::try_from(*name).unwrap();
                (name, HeaderValue::try_from(*value).unwrap())
            })
            .collect();
        requested_wait(&headers, text, now()).map(|wait| wait.as_secs_f64())
    }

    #[test]
    fn reads_every_form_of_retry_after() {
        for (value, wait) in [
            ("7", 7.0),
            (" 7 ", 7.0),
            ("1.5", 1.5),
            ("Mon, 23 Nov 2026 12:00:09 GMT", 9.0),
            ("Monday, 23-Nov-26 12:00:09 GMT", 9.0),
            ("Mon Nov 23 12:00:09 2026", 9.0),
            ("Mon, 23 Nov 2026 11:00:00 GMT", 0.0),
            ("561600", 561_600.0),
        ] {
            assert_eq!(
                wait_of(&[("retry-after", value)], ""),
                Some(wait),
                "{value}"
            );
        }
    }

    #[test]
    fn measures_a_date_against_the_upstreams_own_clock() {
        let fields = [
            ("date", "Mon, 23 Nov 2026 15:00:00 GMT"),
            ("retry-after", "Mon, 23 Nov 2026 15:00:04 GMT"),
        ];
        assert_eq!(wait_of(&fields, ""), Some(4.0));
    }

    #[test]
    fn nonsense_names_no_wait() {
        for value in [
            "",
            "0",
            "0.0",
            "-1",
            "+3",
            "NaN",
            "inf",
            "1e3",
            "soon",
            "1.2.3",
            ".",
            "0x10",
            "99999999999999999999999999",
            "Mon, 99 Foo 2026 12:00:00 GMT",
        ] {
            assert_eq!(wait_of(&[("retry-after", value)], ""), None, "{value}");
            assert_eq!(wait_of(&[("retry-after-ms", value)], ""), None, "{value}");
        }
    }

    #[test]
    fn milliseconds_win_and_nonsense_yields_to_the_next_form() {
        let both = [("retry-after-ms", "250"), ("retry-after", "9")];
        assert_eq!(wait_of(&both, ""), Some(0.25));
        let broken = [("retry-after-ms", "NaN"), ("retry-after", "9")];
        assert_eq!(wait_of(&broken, "try again in 3s"), Some(9.0));
        assert_eq!(
            wait_of(&[("retry-after", "-1")], "try again in 3s"),
            Some(3.0)
        );
    }

    #[test]
    fn a_reset_counts_when_nothing_remains() {
        let reset = |remaining: &str, value: &str| {
            wait_of(
                &[
                    ("x-ratelimit-remaining-requests", remaining),
                    ("x-ratelimit-reset-requests", value),
                ],
                "",
            )
        };
        assert_eq!(reset("0", "1s"), Some(1.0));
        assert_eq!(reset("0", "6m0s"), Some(360.0));
        assert_eq!(reset("0", "120ms"), Some(0.12));
        assert_eq!(reset("0", "12"), Some(12.0));
        let at = now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs()
            + 5;
        assert_eq!(reset("0", &at.to_string()), Some(5.0));
        assert_eq!(reset("0", &format!("{at}000")), Some(5.0));
        assert_eq!(reset("3", "1s"), None);
        assert_eq!(reset("0", "0"), None);
        assert_eq!(reset("0", "-1"), None);
    }

    #[test]
    fn the_longest_reset_that_is_reached_counts() {
        let fields = [
            ("x-ratelimit-remaining", "0"),
            ("x-ratelimit-reset", "2s"),
            ("x-ratelimit-remaining-tokens", "0"),
            ("x-ratelimit-reset-tokens", "5s"),
            ("x-ratelimit-remaining-requests", "1"),
            ("x-ratelimit-reset-requests", "9s"),
        ];
        assert_eq!(wait_of(&fields, ""), Some(5.0));
    }

    #[test]
    fn the_first_form_that_makes_sense_decides() {
        let at = now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_millis()
            + 30_000;
        let at = at.to_string();
        let fields = [
            ("retry-after-ms", "1500"),
            ("retry-after", "7"),
            ("x-ratelimit-remaining", "0"),
            ("x-ratelimit-reset", &at),
        ];
        let text = "try again in 41.7s";
        for (skipped, wait) in [1.5, 7.0].into_iter().enumerate() {
            assert_eq!(wait_of(&fields[skipped..], text), Some(wait));
        }
        assert_eq!(wait_of(&fields[2..], text), Some(30.0));
        assert_eq!(wait_of(&fields[3..], text), Some(41.7));
        let nonsense = [
            ("retry-after-ms", "0"),
            ("retry-after", "-1"),
            ("x-ratelimit-remaining-requests", "0"),
            ("x-ratelimit-reset-requests", "-1"),
            ("x-ratelimit-remaining-tokens", "0"),
            ("x-ratelimit-reset-tokens", "0s"),
        ];
        assert_eq!(wait_of(&nonsense, text), Some(41.7));
        assert_eq!(wait_of(&nonsense, ""), None);
    }

    #[test]
    fn finds_a_delay_in_the_message() {
        for (text, wait) in [
            ("Rate limit reached. Please try again in 41.7s.", Some(41.7)),
            ("try again in 1m30s", Some(90.0)),
            ("Please retry in 20 seconds", Some(20.0)),
            (r#"{"retryDelay": "6s"}"#, Some(6.0)),
            ("please wait 2 minutes", Some(120.0)),
            ("Waiting is no use; try again in 250ms", Some(0.25)),
            ("try again in a while", None),
            ("try again in 5 apples", None),
            ("try again in", None),
        ] {
            assert_eq!(wait_of(&[], text), wait, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_input_panics(value in "\\PC*", text in "\\PC*", tail in "[0-9.a-z ]*") {
            let headers = ["retry-after", "retry-after-ms", "date", "x-ratelimit-reset"]
                .into_iter()
                .filter_map(|name| {
                    let value = HeaderValue::try_from(value.as_str()).ok()?;
                    Some((HeaderName::from_static(name), value))
                })
                .collect();
            requested_wait(&headers, &text, now());
            requested_wait(&headers, &format!("try again in {tail}"), now());
        }
    }
}
