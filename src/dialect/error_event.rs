//! An error in the first event of a stream ([HTML §9.2]), under a success status.
//!
//! [HTML §9.2]: https://html.spec.whatwg.org/multipage/server-sent-events.html

use http::StatusCode;
use pacegate_layers::retry_on_429::sse;
use serde_json::Value;

use super::error_body::ErrorBody;

/// An error event.
#[derive(Debug, PartialEq)]
pub(super) struct ErrorEvent {
    /// The status that the event names, if any.
    pub(super) status: Option<StatusCode>,
    pub(super) document: ErrorBody,
}

/// The first event in `body`, if it is an error. Errors after content pass to the client.
pub(super) fn first_error(body: &[u8]) -> Option<ErrorEvent> {
    let event = sse::first_event(body).lines;
    // Every form of an error contains one of these, and nearly every stream begins with neither.
    if !contains(event, b"error") && !contains(event, b":HTTP_STATUS/") {
        return None;
    }
    let text = String::from_utf8_lossy(event)
        .replace("\r\n", "\n")
        .replace('\r', "\n");
    let is_field = |line: &str| !line.is_empty() && !line.starts_with(':');
    if !text.split('\n').any(is_field) {
        return None;
    }
    let mut status = None;
    let mut is_error = false;
    let mut data = Vec::new();
    for line in text.split('\n') {
        // A comment to every parser, but one provider names the status in it.
        if let Some(code) = line.strip_prefix(":HTTP_STATUS/") {
            status = StatusCode::from_bytes(code.trim().as_bytes())
                .ok()
                .filter(|status| status.is_client_error() || status.is_server_error());
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        match field {
            "data" => data.push(value.strip_prefix(' ').unwrap_or(value)),
            "event" => is_error = value.trim() == "error",
            _ => {}
        }
    }
    let data = data.join("\n");
    let document = if is_error || status.is_some() {
        ErrorBody::read(data.as_bytes())
    } else {
        error_document(&data)?
    };
    Some(ErrorEvent {
        status: status.or_else(|| document.status()),
        document,
    })
}

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len()).any(|window| window == wanted)
}

/// `data`, if it is a document with an error in it.
fn error_document(data: &str) -> Option<ErrorBody> {
    // Nearly every event is content, and need not be parsed.
    if !data.contains("\"error\"") {
        return None;
    }
    let whole: Value = serde_json::from_str(data).ok()?;
    whole
        .get("error")
        .is_some_and(|error| !error.is_null())
        .then(|| ErrorBody::from_json(&whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(body: &str) -> Option<Option<u16>> {
        let error = first_error(body.as_bytes())?;
        Some(error.status.map(|status| status.as_u16()))
    }

    #[test]
    fn finds_an_error_in_every_form() {
        for (body, named) in [
            (
                "id:1\nevent:error\n:HTTP_STATUS/429\ndata:{\"code\":\"a\"}\n\n",
                Some(429),
            ),
            ("event: error\r\ndata: {\"code\":\"a\"}\r\n\r\n", None),
            (
                "\u{feff}: busy\n\n:still\n\ndata: {\"error\":{\"code\":429}}\n\n",
                Some(429),
            ),
            (
                "data: {\"choices\":[],\"error\":{\"code\":\"a\"}}\n\n",
                None,
            ),
            ("data: {\"error\":\ndata: {\"code\":503}}", Some(503)),
            ("event:error\ndata:not JSON\n\n", None),
            ("event:error\n\n", None),
        ] {
            assert_eq!(status(body), Some(named), "{body:?}");
        }
    }

    #[test]
    fn other_and_later_events_are_no_error() {
        for body in [
            "",
            "\n\n",
            ": busy\n\n",
            "data: [DONE]\n\n",
            "id:1\nevent:result\n:HTTP_STATUS/200\ndata:{\"output\":{}}\n\n",
            "data: {\"choices\":[],\"error\":null}\n\n",
            "data: {\"choices\":[{\"delta\":{\"content\":\"the \\\"error\\\" is\"}}]}\n\n",
            "data: {\"choices\":[]}\n\nevent:error\ndata:{\"error\":{\"code\":429}}\n\n",
        ] {
            assert_eq!(status(body), None, "{body:?}");
        }
    }
}
