//! The ways to say when to retry.

use jiff::{SignedDuration, Timestamp};

/// How an error response says when to retry. Texts are sent unchecked, so that tests can send
/// invalid ones.
#[derive(Clone, Debug, PartialEq)]
pub enum Hint {
    /// `Retry-After` as an asctime date, so many seconds from now.
    AsctimeDate(u32),
    /// `Retry-After` as an IMF-fixdate, so many seconds from now.
    HttpDate(u32),
    /// So many seconds, in the message only.
    Message(String),
    /// `x-ratelimit-reset-requests`, with nothing remaining.
    ResetRequests(String),
    /// `x-ratelimit-reset-tokens`, with nothing remaining.
    ResetTokens(String),
    /// `Retry-After`.
    RetryAfter(String),
    /// `retry-after-ms`.
    RetryAfterMs(String),
    /// `Retry-After` as an RFC 850 date, so many seconds from now.
    Rfc850Date(u32),
}

// === impl Hint ===

impl Hint {
    /// Parses a key and its value in the text of a fault.
    pub(super) fn parse(key: &str, value: &str) -> Result<Self, &'static str> {
        let seconds = || {
            value
                .parse()
                .map_err(|_| "a date is given as whole seconds from now")
        };
        let text = || value.to_owned();
        Ok(match key {
            "date" => Self::HttpDate(seconds()?),
            "date-asctime" => Self::AsctimeDate(seconds()?),
            "date-rfc850" => Self::Rfc850Date(seconds()?),
            "message" => Self::Message(text()),
            "reset-requests" => Self::ResetRequests(text()),
            "reset-tokens" => Self::ResetTokens(text()),
            "retry-after" => Self::RetryAfter(text()),
            "retry-after-ms" => Self::RetryAfterMs(text()),
            _ => return Err("unknown key"),
        })
    }

    /// The headers of this hint.
    pub(super) fn headers(&self) -> Vec<(&'static str, String)> {
        let date = |format, seconds| vec![("retry-after", date_after(format, seconds))];
        match self {
            Self::AsctimeDate(seconds) => date("%a %b %e %H:%M:%S %Y", *seconds),
            Self::HttpDate(seconds) => date("%a, %d %b %Y %H:%M:%S GMT", *seconds),
            Self::Message(_) => Vec::new(),
            Self::ResetRequests(text) => vec![
                ("x-ratelimit-remaining-requests", "0".to_owned()),
                ("x-ratelimit-reset-requests", text.clone()),
            ],
            Self::ResetTokens(text) => vec![
                ("x-ratelimit-remaining-tokens", "0".to_owned()),
                ("x-ratelimit-reset-tokens", text.clone()),
            ],
            Self::RetryAfter(text) => vec![("retry-after", text.clone())],
            Self::RetryAfterMs(text) => vec![("retry-after-ms", text.clone())],
            Self::Rfc850Date(seconds) => date("%A, %d-%b-%y %H:%M:%S GMT", *seconds),
        }
    }
}

/// A date of RFC 9110, section 5.6.7, in one of its three formats.
fn date_after(format: &str, seconds: u32) -> String {
    let date = Timestamp::now().checked_add(SignedDuration::from_secs(seconds.into()));
    date.unwrap_or(Timestamp::MAX).strftime(format).to_string()
}
