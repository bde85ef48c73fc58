//! A response of pacegate's own instead of an upstream's: who is at fault, whether to retry, what
//! the reader can do.
//!
//! Programs read these texts, too. OpenCode retries a 4xx whose body contains words such as
//! "timeout" or digits such as 502, so the texts of final errors contain neither, and none quotes
//! the client or the upstream.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use pacegate_layers::retry_on_429::retry_after::delay_seconds;

use super::{chat_completions, retry_words::mask_retry_words};
use crate::body::Body;

/// Marks a response as pacegate's own, and says why.
const X_PACEGATE_ERROR: HeaderName = HeaderName::from_static("x-pacegate-error");

const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// An error of pacegate's own, before it takes the shape of an API.
#[derive(Debug)]
pub(crate) struct ErrorResponse {
    pub(crate) status: StatusCode,
    /// The value of `x-pacegate-error`, on which scripts may rely.
    pub(crate) code: &'static str,
    pub(crate) message: String,
    retry_after: Option<Duration>,
    should_not_retry: bool,
    close: bool,
}

// === impl ErrorResponse ===

impl ErrorResponse {
    /// An error with `message`; a final error's message loses the words on which clients retry.
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
            should_not_retry: false,
            close: false,
        }
    }

    /// A failure inside pacegate; the reader can do nothing about it.
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

    /// Sends `x-should-retry: false`, which the OpenAI SDKs obey.
    #[must_use]
    pub(crate) fn should_not_retry(mut self) -> Self {
        self.should_not_retry = true;
        self
    }

    /// The error as a complete response.
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
        if self.should_not_retry {
            headers.insert(X_SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        response
    }

    /// The error as the last event of a stream that has begun.
    pub(crate) fn into_event(self) -> Bytes {
        chat_completions::error_event(chat_completions::error(&self).to_string().as_bytes())
    }
}

/// A JSON document as a complete response.
pub(crate) fn json_response(status: StatusCode, document: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(full(document.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// A body whose data is at hand.
pub(crate) fn full(data: impl Into<Bytes>) -> Body {
    Full::new(data.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}
