//! OpenAI's Chat Completions, and the older paths that share its parameters and errors.

use std::borrow::Cow;

use bytes::Bytes;
use pacegate_layers::pacing::QueuePosition;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::ErrorResponse;

/// Paths below `/v1` that require a model.
const NEED_A_MODEL: [&str; 4] = [
    "/chat/completions",
    "/completions",
    "/embeddings",
    "/responses",
];

/// The parameters that routing needs. The rest of the body is only checked to be JSON.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct ChatParams<'a> {
    #[serde(borrow, default, deserialize_with = "or_borrowed")]
    pub(crate) model: Option<Cow<'a, str>>,
    /// Whether the response is to be an event stream.
    #[serde(default, deserialize_with = "or_false")]
    pub(crate) stream: bool,
}

/// A request body without usable parameters.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ParamsError {
    #[error("the request body names no model; expected a string under \"model\"")]
    NoModel,
    #[error("the request body is not a JSON object: {0}")]
    NotJson(String),
}

// === impl ChatParams ===

impl<'a> ChatParams<'a> {
    /// The parameters of a request to `path` (below `/v1`) with `body`.
    ///
    /// # Errors
    ///
    /// [`ParamsError::NotJson`] with the position of the error; [`ParamsError::NoModel`] if `path`
    /// requires one.
    pub(crate) fn of(path: &str, body: &'a [u8]) -> Result<Self, ParamsError> {
        // SDKs send an empty body to paths such as /batches/ID/cancel.
        let params = if body.is_empty() {
            Self::default()
        } else {
            Self::parse(body)?
        };
        if params.model.is_none() && NEED_A_MODEL.contains(&path) {
            return Err(ParamsError::NoModel);
        }
        Ok(params)
    }

    /// The parameters in `body`, after checking that it is a JSON object.
    ///
    /// # Errors
    ///
    /// [`ParamsError::NotJson`] with the position of the error.
    pub(crate) fn parse(body: &'a [u8]) -> Result<Self, ParamsError> {
        // serde would also accept an array.
        if body
            .trim_ascii_start()
            .first()
            .is_some_and(|byte| *byte != b'{')
        {
            return Err(ParamsError::NotJson("it does not begin with {".into()));
        }
        serde_json::from_slice(body).map_err(|error| {
            // The text of the error may quote the body; its position and kind do not.
            let kind = match error.classify() {
                serde_json::error::Category::Data => "unexpected kind of value",
                serde_json::error::Category::Eof => "it ends too early",
                _ => "syntax error",
            };
            let (line, column) = (error.line(), error.column());
            ParamsError::NotJson(format!("{kind} at line {line}, column {column}"))
        })
    }
}

/// serde borrows for a `Cow`, but not for an optional one.
fn or_borrowed<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Cow<'de, str>>, D::Error> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

    let text = Option::<Text<'de>>::deserialize(deserializer)?;
    Ok(text.map(|Text(text)| text))
}

/// Some clients send null for an unset parameter.
fn or_false<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// `error` as OpenAI's error object.
pub(super) fn error(error: &ErrorResponse) -> Value {
    let kind = match error.status.as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    };
    json!({
        "error": {
            "message": error.message,
            "type": kind,
            "param": null,
            "code": error.code,
        }
    })
}

/// A comment that keeps a stream alive while its request waits at `position`, or for the upstream's
/// response once it has left the queue.
pub(crate) fn keep_alive(position: Option<QueuePosition>) -> Bytes {
    match position {
        Some(QueuePosition { place, eta, reason }) => {
            let eta = eta.as_secs();
            format!(": queued place={place} eta={eta}s ({reason})\n\n").into()
        }
        None => Bytes::from_static(b": waiting for the upstream\n\n"),
    }
}

/// One event whose data is `document`, line by line.
pub(crate) fn error_event(document: &[u8]) -> Bytes {
    let text = String::from_utf8_lossy(document);
    let lines = text.lines().map(|line| format!("data: {line}\n"));
    let event: String = lines.chain(["\n".to_owned()]).collect();
    event.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_parameters_and_checks_the_rest() {
        let full = ChatParams {
            model: Some("m1".into()),
            stream: true,
        };
        let body = br#"{"a":[1],"model":"m\u0031","stream":true}"#;
        assert_eq!(ChatParams::parse(body).unwrap(), full);
        let null = br#"{"a":1,"stream":null}"#;
        assert_eq!(ChatParams::parse(null).unwrap(), ChatParams::default());
        for (broken, place) in [
            ("", "it ends too early at line 1, column 0"),
            (r#"{"model":"x""#, "it ends too early at line 1, column 12"),
            (r#"{"model":"x"} y"#, "syntax error at line 1, column 15"),
            (r#"["x"]"#, "does not begin with {"),
            (r#"{"model":7}"#, "unexpected kind of value"),
        ] {
            let error = ChatParams::parse(broken.as_bytes())
                .unwrap_err()
                .to_string();
            assert!(error.contains(place), "{broken}: {error}");
        }
    }
}
