//! Reads error documents of all providers into one form.

use http::StatusCode;
use serde_json::Value;

/// An error document, as far as rules ask about it. Texts are in lower case.
#[derive(Debug, PartialEq)]
pub(super) enum ErrorBody {
    /// JSON of a known shape: OpenAI's envelope, the same fields without one, Google's.
    Fields {
        codes: Vec<String>,
        limits: Vec<String>,
        message: String,
    },
    /// Anything else, such as the beginning of a longer document.
    Text(String),
}

impl ErrorBody {
    pub(super) fn read(body: &[u8]) -> Self {
        match serde_json::from_slice(body) {
            Ok(whole) => Self::from_json(&whole),
            Err(_) => Self::Text(String::from_utf8_lossy(body).to_ascii_lowercase()),
        }
    }

    pub(super) fn from_json(whole: &Value) -> Self {
        // Google puts the envelope into an array.
        let whole = whole.get(0).unwrap_or(whole);
        let error = match whole.get("error") {
            None | Some(Value::Null) => whole,
            Some(error) => error,
        };
        let message = match error {
            Value::String(text) => Some(text.as_str()),
            _ => ["message", "detail"]
                .into_iter()
                .find_map(|key| error.get(key)?.as_str()),
        };
        Self::Fields {
            codes: ["code", "type", "status"]
                .into_iter()
                .filter_map(|key| scalar(error.get(key)?))
                .collect(),
            limits: limits(error),
            message: message.unwrap_or_default().to_ascii_lowercase(),
        }
    }

    /// The status that the error itself names.
    pub(super) fn status(&self) -> Option<StatusCode> {
        let Self::Fields { codes, .. } = self else {
            return None;
        };
        let status = |code: &String| StatusCode::from_bytes(code.as_bytes()).ok();
        codes
            .iter()
            .filter_map(status)
            .find(|status| status.is_client_error() || status.is_server_error())
    }

    pub(super) fn has_code(&self, code: &str) -> bool {
        match self {
            Self::Fields { codes, .. } => codes.iter().any(|known| known == code),
            // A word in prose is no code.
            Self::Text(text) => text.contains(&format!("\"{code}\"")),
        }
    }

    pub(super) fn message_contains(&self, part: &str) -> bool {
        match self {
            Self::Fields { message, .. } => message.contains(part),
            Self::Text(text) => text.contains(part),
        }
    }

    pub(super) fn has_limit(&self, part: &str) -> bool {
        match self {
            Self::Fields { limits, .. } => limits.iter().any(|limit| limit.contains(part)),
            Self::Text(text) => text.contains(part),
        }
    }
}

/// A router's `metadata.limit_source`, and the quotas of
/// [Google's `QuotaFailure`](https://cloud.google.com/apis/design/errors#error_details).
fn limits(error: &Value) -> Vec<String> {
    let source = error.pointer("/metadata/limit_source");
    let quotas = list(error, "details")
        .flat_map(|detail| list(detail, "violations"))
        .filter_map(|violation| violation.get("quotaId"));
    source
        .into_iter()
        .chain(quotas)
        .filter_map(scalar)
        .collect()
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value
        .get(key)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.to_ascii_lowercase()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_yields_code_and_message() {
        for body in [
            r#"{"error":{"code":"Slow","message":"Too MUCH"}}"#,
            r#"{"error":{"code":null,"type":"slow","message":"too much"}}"#,
            r#"{"code":"Slow","message":"too much","request_id":"1"}"#,
            r#"{"object":"error","type":"SLOW","message":"too much"}"#,
            r#"[{"error":{"code":429,"status":"SLOW","message":"too much"}}]"#,
            r#"{"error":null,"code":"slow","detail":"too much"}"#,
            r#"{"error":{"code":"slow","message":"too much","cut":"#,
        ] {
            let document = ErrorBody::read(body.as_bytes());
            assert!(document.has_code("slow"), "{body}");
            assert!(document.message_contains("too much"), "{body}");
            assert!(!document.has_code("too"), "{body}");
        }
        assert!(ErrorBody::read(br#"{"error":"Too much"}"#).message_contains("too much"));
        assert!(ErrorBody::read(b"<h1>Too much</h1>").message_contains("too much"));
    }

    #[test]
    fn a_null_message_is_empty() {
        let document = ErrorBody::read(br#"{"code":"slow","message":null}"#);
        assert!(document.has_code("slow") && !document.message_contains("null"));
    }

    #[test]
    fn only_an_error_status_is_one() {
        let status = |body: &str| ErrorBody::read(body.as_bytes()).status();
        let too_many = Some(StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(status(r#"{"error":{"code":429}}"#), too_many);
        assert_eq!(status(r#"{"error":{"code":"429"}}"#), too_many);
        assert_eq!(status(r#"{"error":{"type":"e","status":429}}"#), too_many);
        for body in [
            r#"{"error":{"code":200}}"#,
            r#"{"error":{"code":-429}}"#,
            r#"{"error":{"code":4290}}"#,
            r#"{"error":{"code":429.5}}"#,
            "429",
        ] {
            assert_eq!(status(body), None, "{body}");
        }
    }

    #[test]
    fn knows_the_names_of_limits() {
        let open_router = r#"{"error":{"metadata":{"limit_source":"In_Flight"}}}"#;
        assert!(ErrorBody::read(open_router.as_bytes()).has_limit("in_flight"));
        let google = r#"{"error":{"details":[{"@type":"RetryInfo"},
            {"violations":[{"quotaId":"TokensPerMinute"},{"quotaId":"RequestsPerDay"}]}]}}"#;
        let google = ErrorBody::read(google.as_bytes());
        assert!(google.has_limit("perday") && google.has_limit("perminute"));
        assert!(!google.has_limit("permonth"));
    }
}
