//! Every error as an answer: whose fault, may it be retried, what can the reader do.
//!
//! Clients read these texts by machine. OpenCode retries a 4xx whose body holds words such as
//! "timeout" or digits such as 502, so the texts of final answers are kept clear of both, and none
//! repeats what the client or the upstream sent.

use std::{error::Error as StdError, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use jiff::{Unit, ZonedDateTime};
use pacegate_layers::{
    error::{NotSent, chain, chain_text},
    pacing::Refused,
    retry_on_429::Exhausted,
    token::TokenError,
};
use serde_json::json;
use tracing::warn;

use super::{guard::Rejected, request_body::RequestBodyError};
use crate::{
    api::retry_words::mask_retry_words,
    body::Body,
    client::error::{
        CertificateError, ConnectError, ConnectionLost, HeadTimeout, HeadTooLarge,
        UnexpectedUpgrade,
    },
    routes::router::NoRoute,
    server::AtCapacity,
    upstreams::{
        drain::{self, Draining},
        keep_waiting::MaxHoldExceeded,
    },
};

/// Says that pacegate itself made this answer, and why.
pub(crate) const X_PACEGATE_ERROR: HeaderName = HeaderName::from_static("x-pacegate-error");

/// Room is made by answers that end, which takes a moment, and is not worth an estimate.
const SOON: Duration = Duration::from_secs(1);

/// An answer that pacegate makes instead of an upstream's.
#[derive(Debug)]
pub(crate) struct ErrorResponse {
    status: StatusCode,
    kind: &'static str,
    code: &'static str,
    message: String,
    retry_after: Option<Duration>,
    close: bool,
}

// === impl ErrorResponse ===

impl ErrorResponse {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let mut message = message.into();
        let worth_retrying = matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
        );
        if status.is_client_error() && !worth_retrying {
            message = mask_retry_words(&message).into_owned();
        }
        let kind = match status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            429 => "rate_limit_error",
            400..=499 => "invalid_request_error",
            _ => "api_error",
        };
        Self {
            status,
            kind,
            code,
            message,
            retry_after: None,
            close: false,
        }
    }

    /// Ends the connection behind the answer.
    fn close(mut self) -> Self {
        self.close = true;
        self
    }

    fn retry_after(mut self, estimate: Duration) -> Self {
        self.retry_after = Some(estimate);
        self
    }

    /// What `error` means to a client. An unknown cause is logged and kept from it.
    pub(crate) fn from_error(error: &(dyn StdError + 'static)) -> Self {
        for cause in chain(error) {
            if let Some(answer) = known(cause) {
                // A wish of the operator's is no failure.
                if answer.status.is_server_error() && !cause.is::<Draining>() {
                    warn!(
                        code = answer.code,
                        error = chain_text(error),
                        "Request failed"
                    );
                }
                return answer;
            }
        }
        warn!(error = chain_text(error), "Unexpected error");
        Self::internal()
    }

    /// Something broke in here, and the reader can do nothing about it.
    pub(crate) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal_error",
            "pacegate failed to handle this request; its log says more",
        )
    }

    /// The answer in OpenAI's shape.
    pub(crate) fn into_response(self) -> Response<Body> {
        let document = json!({
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": null,
                "code": self.code,
            }
        });
        let mut response = json_response(self.status, &document);
        let headers = response.headers_mut();
        headers.insert(X_PACEGATE_ERROR, HeaderValue::from_static(self.code));
        if self.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(estimate) = self.retry_after {
            headers.insert(
                header::RETRY_AFTER,
                HeaderValue::from(whole_seconds(estimate)),
            );
        }
        response
    }
}

/// A complete JSON document as an answer.
pub(crate) fn json_response(status: StatusCode, document: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(full(document.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// A body that is there already.
pub(crate) fn full(data: impl Into<Bytes>) -> Body {
    Full::new(data.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// The table: what each cause that an edge or a pipeline can name means to a client.
fn known(cause: &(dyn StdError + 'static)) -> Option<ErrorResponse> {
    if let Some(rejected) = cause.downcast_ref::<Rejected>() {
        // Whoever may not talk gets no second try on the same connection.
        return Some(
            ErrorResponse::new(rejected.status(), rejected.code(), rejected.to_string()).close(),
        );
    }
    if let Some(error) = cause.downcast_ref::<RequestBodyError>() {
        let answer = ErrorResponse::new(error.status(), error.code(), error.to_string());
        return Some(match error {
            RequestBodyError::Crowded(_) => answer.retry_after(SOON),
            // Where the next request would begin, nobody can tell.
            RequestBodyError::Malformed => answer.close(),
            _ => answer,
        });
    }
    if let Some(error) = cause.downcast_ref::<AtCapacity>() {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        return Some(ErrorResponse::new(status, "overloaded", error.to_string()).retry_after(SOON));
    }
    if let Some(error) = cause.downcast_ref::<NoRoute>() {
        return Some(ErrorResponse::new(
            StatusCode::NOT_FOUND,
            "not_found",
            error.to_string(),
        ));
    }
    if let Some(draining) = cause.downcast_ref::<Draining>() {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let answer = ErrorResponse::new(status, "draining", draining.to_string());
        return Some(answer.retry_after(drain::RETRY_AFTER));
    }
    if let Some(exhausted) = cause.downcast_ref::<Exhausted>() {
        return Some(quota_exhausted(exhausted.reset));
    }
    if let Some(held) = cause.downcast_ref::<MaxHoldExceeded>() {
        let why = "the request has been held for max-hold";
        return Some(queue_answer("would_wait_too_long", held.estimate, why));
    }
    if let Some(refused) = cause.downcast_ref::<Refused>() {
        return Some(queue_refusal(refused));
    }
    if let Some(error) = cause.downcast_ref::<TokenError>() {
        return Some(match error {
            TokenError::LoginRequired(advice) => {
                ErrorResponse::new(StatusCode::UNAUTHORIZED, "login_required", advice.clone())
            }
            TokenError::Unavailable(_) => ErrorResponse::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "token_unavailable",
                "the token has expired and the token endpoint gives no new one at the moment; \
                 pacegate keeps trying, and its log has the cause",
            ),
        });
    }
    if let Some(error) = cause.downcast_ref::<CertificateError>() {
        return Some(unreachable(error.to_string()));
    }
    if cause.is::<HeadTimeout>() {
        return Some(ErrorResponse::new(
            StatusCode::GATEWAY_TIMEOUT,
            "upstream_timeout",
            "the upstream took the request and sent no response head within head-timeout",
        ));
    }
    if let Some(error) = cause.downcast_ref::<ConnectError>() {
        return Some(unreachable(format!(
            "{error}; the request was not sent. Check base-url, the network and any proxy"
        )));
    }
    if let Some(error) = cause.downcast_ref::<HeadTooLarge>() {
        return Some(unreachable(error.to_string()));
    }
    if cause.is::<NotSent>() {
        // The connect error within says more.
        return cause.source().and_then(known).or_else(|| {
            Some(unreachable(
                "the upstream cannot be reached; the request was not sent",
            ))
        });
    }
    if cause.is::<UnexpectedUpgrade>() {
        return Some(unreachable(
            "the upstream answered in another protocol than HTTP, which nobody asked for; check \
             base-url",
        ));
    }
    if cause.is::<ConnectionLost>() {
        return Some(unreachable(
            "the upstream broke the connection before it answered; it may have acted on the \
             request, so pacegate does not repeat it",
        ));
    }
    None
}

fn unreachable(message: impl Into<String>) -> ErrorResponse {
    ErrorResponse::new(StatusCode::BAD_GATEWAY, "upstream_unreachable", message)
}

fn queue_refusal(refused: &Refused) -> ErrorResponse {
    let (code, estimate, why) = match *refused {
        Refused::QuotaExhausted { reset } => return quota_exhausted(Some(reset)),
        Refused::QueueFull { estimate, .. } => ("queue_full", estimate, "max-queue is reached"),
        Refused::WouldWaitTooLong { estimate } => (
            "would_wait_too_long",
            estimate,
            "that is more than max-wait",
        ),
    };
    queue_answer(code, estimate, why)
}

fn queue_answer(code: &'static str, estimate: Duration, why: &str) -> ErrorResponse {
    let seconds = whole_seconds(estimate);
    ErrorResponse::new(
        StatusCode::TOO_MANY_REQUESTS,
        code,
        format!(
            "pacegate's own queue for this upstream is about {seconds} s long, and {why}; \
             the upstream has not seen this request"
        ),
    )
    .retry_after(estimate)
}

/// No client waits for this one: the reset is in words, and no digit of it looks like a status.
fn quota_exhausted(reset: Option<Duration>) -> ErrorResponse {
    let advice = match reset {
        Some(reset) => format!(
            "there is some again by {}. Asking before then is of no use: wait, or use another \
             upstream",
            in_words(reset)
        ),
        None => "its provider does not say until when. Look at the account's plan and billing \
                 there, or use another upstream"
            .to_owned(),
    };
    ErrorResponse::new(
        StatusCode::FORBIDDEN,
        "quota_exhausted",
        format!("the quota of this upstream's account is used up; {advice}"),
    )
}

/// A weekday and a time of day, in the system's time zone: `Tuesday, 24 November, 16:00 (UTC)`.
fn in_words(reset: Duration) -> String {
    let reset = jiff::SignedDuration::try_from(reset).unwrap_or(jiff::SignedDuration::MAX);
    let exact = ZonedDateTime::now().saturating_add(reset);
    // The upstream's clock and ours differ: a second before midnight would be the day before.
    let at = exact.round(Unit::Minute).unwrap_or(exact);
    at.strftime("%A, %-d %B, %H:%M (%Z)").to_string()
}

/// At least one: zero would call the client back at once.
fn whole_seconds(estimate: Duration) -> u64 {
    let up = u64::from(estimate.subsec_nanos() > 0);
    (estimate.as_secs() + up).max(1)
}

#[cfg(test)]
mod tests {
    use super::{super::request_body, *};
    use crate::api::retry_words::RETRY_WORDS;

    /// Every refusal that pacegate can make itself, with the worst a config or a client can put
    /// into its text.
    fn refusals() -> Vec<Box<dyn StdError>> {
        let denials = [
            Rejected::ClientKey,
            Rejected::ContentType,
            Rejected::Framing,
            Rejected::HeadTooLarge,
            Rejected::Host,
            Rejected::HostMissing,
            Rejected::Method,
            Rejected::MethodCase,
            Rejected::Origin,
            Rejected::Preflight,
            Rejected::Target,
            Rejected::TargetTooLong,
        ];
        let columns = (0..600).map(|column| {
            let body = format!("{{{}x", " ".repeat(column));
            request_body::chat_params(body.as_bytes()).unwrap_err()
        });
        let sizes =
            [429, 502, 504].map(|kib| RequestBodyError::TooLarge(bytesize::ByteSize::kib(kib)));
        let login = "no credentials in /home/a503/timeout/oauth_creds.json; log in".to_owned();
        let mut all: Vec<Box<dyn StdError>> = vec![
            Box::new(RequestBodyError::Broken("504 timeout".into())),
            Box::new(RequestBodyError::Malformed),
            Box::new(RequestBodyError::NoModel),
            Box::new(NoRoute::Path),
            Box::new(NoRoute::Upstream),
            Box::new(TokenError::LoginRequired(login)),
            Box::new(Exhausted { reset: None }),
        ];
        // A month, by steps that meet every minute of the day.
        let resets = (0..4320_u64).map(|step| Duration::from_secs(step * 10 * 61));
        for reset in resets {
            all.push(Box::new(Refused::QuotaExhausted { reset }));
            all.push(Box::new(Exhausted { reset: Some(reset) }));
        }
        all.extend(denials.map(|rejected| Box::new(rejected) as _));
        all.extend(columns.chain(sizes).map(|error| Box::new(error) as _));
        all
    }

    #[tokio::test]
    async fn no_final_answer_holds_what_makes_a_client_retry() {
        for refusal in refusals() {
            let response = ErrorResponse::from_error(&*refusal).into_response();
            let status = response.status();
            assert!(
                [400, 401, 403, 404, 405, 413, 414, 415, 431].contains(&status.as_u16()),
                "{refusal}: {status}"
            );
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let text = String::from_utf8_lossy(&body).to_lowercase();
            for retried in RETRY_WORDS {
                assert!(!text.contains(retried), "{retried}: {text}");
            }
        }
    }
}
