//! A response that pacegate makes instead of an upstream's: whose fault, may it be retried, what can
//! the reader do.
//!
//! Clients read these texts by machine. OpenCode retries a 4xx whose body holds words such as
//! "timeout" or digits such as 502, so the texts of final errors hold neither, and none repeats what
//! the client or the upstream sent.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use pacegate_layers::retry_on_429::retry_after::delay_seconds;

use super::{chat_completions, retry_words::mask_retry_words};
use crate::body::Body;

/// Says that pacegate itself made this response, and why.
const X_PACEGATE_ERROR: HeaderName = HeaderName::from_static("x-pacegate-error");

/// An error of pacegate's own, not yet in the shape of an API.
#[derive(Debug)]
pub(crate) struct ErrorResponse {
    pub(crate) status: StatusCode,
    /// A value of `x-pacegate-error`: the contract with scripts.
    pub(crate) code: &'static str,
    pub(crate) message: String,
    retry_after: Option<Duration>,
    close: bool,
}

// === impl ErrorResponse ===

impl ErrorResponse {
    /// An error with `message`, which loses the words that clients retry on if it is final.
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let mut message = message.into();
        let worth_retrying = matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
        );
        if status.is_client_error() && !worth_retrying {
            message = mask_retry_words(&message).into_owned();
        }
        Self {
            status,
            code,
            message,
            retry_after: None,
            close: false,
        }
    }

    /// Something broke in pacegate, and the reader can do nothing about it.
    pub(crate) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal_error",
            "pacegate failed to handle this request; its log says more",
        )
    }

    /// Closes the connection after the response.
    #[must_use]
    pub(crate) fn close(mut self) -> Self {
        self.close = true;
        self
    }

    /// Sends `Retry-After`, in whole seconds.
    #[must_use]
    pub(crate) fn retry_after(mut self, estimate: Duration) -> Self {
        self.retry_after = Some(estimate);
        self
    }

    /// The error as a whole response.
    pub(crate) fn into_response(self) -> Response<Body> {
        let mut response = json_response(self.status, &chat_completions::error(&self));
        let headers = response.headers_mut();
        headers.insert(X_PACEGATE_ERROR, HeaderValue::from_static(self.code));
        if self.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(estimate) = self.retry_after {
            let seconds = delay_seconds(estimate);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }

    /// The error as the last event of a stream that has begun.
    pub(crate) fn into_event(self) -> Bytes {
        chat_completions::error_event(chat_completions::error(&self).to_string().as_bytes())
    }
}

/// A whole JSON document as a response.
pub(crate) fn json_response(status: StatusCode, document: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(full(document.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// A body whose data is there already.
pub(crate) fn full(data: impl Into<Bytes>) -> Body {
    Full::new(data.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}
