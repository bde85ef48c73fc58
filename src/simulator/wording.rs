//! The error responses of each provider.
//!
//! Codes, key phrases and headers are from the providers' documents and public issue threads. The
//! gateway's dialect files are written from the same sources, never from this file.

use std::time::{Duration, SystemTime};

use clap::ValueEnum;
use serde_json::{Value, json};

/// The provider whose errors are imitated.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Wording {
    /// DashScope's Coding Plan: quotas by the hour, week and month, no header.
    CodingPlan,
    /// DashScope, pay as you go: native codes, no header.
    Dashscope,
    /// vLLM, llama.cpp: busy, no more.
    Local,
    /// OpenAI and its lookalikes: every header there is.
    #[default]
    #[value(name = "openai")]
    OpenAi,
    /// OpenRouter: numbers for codes, the reset as epoch milliseconds.
    #[value(name = "openrouter")]
    OpenRouter,
    /// The Qwen OAuth portal: a day's quota, no header.
    QwenOauth,
}

/// The limit that an error names.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Reason {
    /// Too many within a second.
    Burst,
    /// Too many at once.
    Concurrency,
    /// The day's quota.
    Day,
    /// The quota of some hours.
    Hours,
    /// The month's quota.
    Month,
    /// Too many within a minute.
    Rate,
    /// Too many tokens within a minute.
    Tokens,
    /// The week's quota.
    Week,
}

/// An error before it is put into a provider's format.
#[derive(Debug)]
pub(super) struct WordedError {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) message: String,
    kind: &'static str,
    code: &'static str,
    wording: Wording,
}

// === impl Wording ===

impl Wording {
    /// The error for a limit that lifts after `wait`.
    pub(super) fn limited(
        self,
        reason: Reason,
        limit: usize,
        wait: Option<Duration>,
    ) -> WordedError {
        let mut error = self.reached(reason);
        if let Some(wait) = wait {
            error.headers = self.headers(limit, wait);
            if self == Self::OpenAi {
                error.hint_in_message(&format!("{:.3}", wait.as_secs_f64()));
            }
        }
        error
    }

    /// The error for a limit, without a hint when it lifts.
    pub(super) fn reached(self, reason: Reason) -> WordedError {
        use Reason::{Burst, Concurrency, Day, Hours, Month, Rate, Tokens, Week};
        let (status, message, kind, code) = match (self, reason) {
            (Self::CodingPlan, reason) => {
                let message = match reason {
                    Concurrency => "concurrency allocated quota exceeded",
                    Day | Hours => "hour allocated quota exceeded",
                    Month => "month allocated quota exceeded",
                    Week => "week allocated quota exceeded",
                    Burst | Rate | Tokens => "usage allocated quota exceeded",
                };
                (429, message, "invalid_request_error", "insufficient_quota")
            }
            (Self::Dashscope, Burst) => (
                429,
                "Request rate increased too quickly",
                "limit_burst_rate",
                "limit_burst_rate",
            ),
            (Self::Dashscope, Concurrency) => (
                429,
                "Too many requests in route",
                "Throttling",
                "Throttling",
            ),
            (Self::Dashscope, Tokens) => (
                429,
                "You exceeded your current quota, please check your plan and billing details",
                "insufficient_quota",
                "insufficient_quota",
            ),
            (Self::Dashscope | Self::QwenOauth, Day | Hours | Month | Week) => (
                429,
                "Free allocated quota exceeded",
                "insufficient_quota",
                "insufficient_quota",
            ),
            (Self::Dashscope | Self::QwenOauth, _) => (
                429,
                "Requests rate limit exceeded",
                "limit_requests",
                "limit_requests",
            ),
            (Self::Local, Concurrency) => (
                503,
                "All slots are busy",
                "unavailable_error",
                "unavailable",
            ),
            (Self::Local, _) => (429, "Server is busy", "unavailable_error", "unavailable"),
            (Self::OpenAi, Day | Hours | Month | Week) => (
                429,
                "You exceeded your current quota, please check your plan and billing details",
                "insufficient_quota",
                "insufficient_quota",
            ),
            (Self::OpenAi, Tokens) => (
                429,
                "Rate limit reached for tokens per minute",
                "tokens",
                "rate_limit_exceeded",
            ),
            (Self::OpenAi, _) => (
                429,
                "Rate limit reached for requests",
                "requests",
                "rate_limit_exceeded",
            ),
            (Self::OpenRouter, Concurrency) => (429, "Provider returned error", "", ""),
            (Self::OpenRouter, Day | Hours | Month | Week) => {
                (429, "Rate limit exceeded: free-models-per-day", "", "")
            }
            (Self::OpenRouter, _) => (429, "Rate limit exceeded: free-models-per-min", "", ""),
        };
        self.worded(status, message, kind, code)
    }

    /// The error for a status without a limit.
    pub(super) fn error(self, status: u16) -> WordedError {
        let (message, kind, code) = match (self, status) {
            (_, 429) => return self.reached(Reason::Rate),
            (Self::CodingPlan, 401) => (
                "invalid access token or token expired",
                "invalid_request_error",
                "invalid_api_key",
            ),
            (_, 400) => (
                "The request is not a chat",
                "invalid_request_error",
                "invalid_request",
            ),
            (_, 401) => (
                "Incorrect API key provided",
                "invalid_request_error",
                "invalid_api_key",
            ),
            (_, 403) => (
                "Access to the model is denied",
                "access_denied",
                "access_denied",
            ),
            (_, 404) => ("Nothing is here", "invalid_request_error", "not_found"),
            (_, 503) => (
                "The engine is overloaded",
                "server_error",
                "service_unavailable",
            ),
            (_, 500..) => ("The engine failed", "server_error", "internal_error"),
            _ => (
                "The request was refused",
                "invalid_request_error",
                "refused",
            ),
        };
        self.worded(status, message, kind, code)
    }

    /// The error event in a stream that has begun.
    pub(super) fn event(self) -> String {
        let body = self.reached(Reason::Rate).body();
        match self {
            Self::CodingPlan | Self::Dashscope | Self::QwenOauth => {
                format!("id:1\nevent:error\n:HTTP_STATUS/429\ndata:{body}\n\n")
            }
            Self::Local | Self::OpenAi | Self::OpenRouter => format!("data: {body}\n\n"),
        }
    }

    fn headers(self, limit: usize, wait: Duration) -> Vec<(&'static str, String)> {
        match self {
            Self::CodingPlan | Self::Dashscope | Self::Local | Self::QwenOauth => Vec::new(),
            Self::OpenAi => vec![
                ("retry-after", wait.as_secs_f64().ceil().to_string()),
                (
                    "retry-after-ms",
                    wait.as_nanos().div_ceil(1_000_000).to_string(),
                ),
                ("x-ratelimit-limit-requests", limit.to_string()),
                ("x-ratelimit-remaining-requests", "0".to_owned()),
                ("x-ratelimit-reset-requests", go_duration(wait)),
            ],
            Self::OpenRouter => vec![
                ("x-ratelimit-limit", limit.to_string()),
                ("x-ratelimit-remaining", "0".to_owned()),
                ("x-ratelimit-reset", epoch_ms_after(wait).to_string()),
            ],
        }
    }

    fn worded(
        self,
        status: u16,
        message: &str,
        kind: &'static str,
        code: &'static str,
    ) -> WordedError {
        WordedError {
            status,
            headers: Vec::new(),
            message: message.to_owned(),
            kind,
            code,
            wording: self,
        }
    }
}

// === impl WordedError ===

impl WordedError {
    /// Adds a delay to the message, as OpenAI does.
    pub(super) fn hint_in_message(&mut self, seconds: &str) {
        self.message = format!("{}. Please try again in {seconds}s.", self.message);
    }

    /// The response body.
    pub(super) fn body(&self) -> Value {
        let Self {
            status,
            message,
            kind,
            code,
            ..
        } = self;
        match self.wording {
            Wording::OpenRouter => json!({ "error": { "message": message, "code": status } }),
            Wording::Local => {
                json!({ "error": { "message": message, "type": kind, "code": status } })
            }
            Wording::CodingPlan | Wording::Dashscope | Wording::OpenAi | Wording::QwenOauth => {
                json!({
                    "error": { "message": message, "type": kind, "param": null, "code": code },
                })
            }
        }
    }
}

/// `6m0s`, `1.5s`, `20ms`: Go's format of durations, which OpenAI sends.
fn go_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis())
        .unwrap_or(u64::MAX)
        .max(1);
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let (minutes, rest) = (millis / 60_000, millis % 60_000);
    let seconds = Duration::from_millis(rest).as_secs_f64();
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// Unix time in milliseconds, the unit of OpenRouter's reset header.
fn epoch_ms_after(wait: Duration) -> u128 {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    now.saturating_add(wait).as_millis()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_durations_as_go_does() {
        for (millis, text) in [
            (20, "20ms"),
            (1_000, "1s"),
            (1_500, "1.5s"),
            (360_000, "6m0s"),
            (3_661_000, "1h1m1s"),
        ] {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn hints_only_where_the_provider_does() {
        for wording in Wording::value_variants() {
            let error = wording.limited(Reason::Rate, 60, Some(Duration::from_secs(3)));
            let hints = matches!(wording, Wording::OpenAi | Wording::OpenRouter);
            assert_eq!(!error.headers.is_empty(), hints, "{wording:?}");
        }
    }
}
