//! The table from errors to responses: who is at fault, whether to retry, what the reader can do.

use std::{error::Error as StdError, time::Duration};

use http::StatusCode;
use jiff::{Unit, ZonedDateTime};
use pacegate_layers::{
    error::{NotProcessed, NotSent, SlowDown, chain, chain_text},
    pacing::Refused,
    retry_on_429::{Exhausted, retry_after::delay_seconds},
    token::TokenError,
};
use tracing::warn;

use super::{guard::Rejected, request_body::RequestBodyError};
use crate::{
    api::{ErrorResponse, chat_completions::ParamsError},
    client::error::{
        CertificateError, ConnectError, ConnectionLost, HeadTimeout, HeadTooLarge, Http1Required,
        ProxyAuthRequired, UnexpectedUpgrade, Unreachable,
    },
    routes::{Draining, NoRoute},
    server::{AtCapacity, is_out_of_descriptors},
    upstreams::MaxHoldExceeded,
};

/// The `Retry-After` when a slot frees up as soon as some response ends, which takes a moment.
const SOON: Duration = Duration::from_secs(1);

/// About how long a restart takes. A client that returns too early is refused once more.
const RESTART: Duration = Duration::from_secs(5);

/// Most limits are counted per minute.
const SLOW_DOWN: Duration = Duration::from_secs(60);

/// The response to `error`. An unknown cause is logged and not shown to the client.
pub(super) fn to_response(error: &(dyn StdError + 'static)) -> ErrorResponse {
    for cause in chain(error) {
        if let Some(response) = lookup(cause) {
            // The operator asked for the shutdown, so it is not a failure.
            if response.status.is_server_error() && response.code != DRAINING {
                warn!(
                    code = response.code,
                    error = chain_text(error),
                    "Request failed"
                );
            }
            return response;
        }
    }
    warn!(error = chain_text(error), "Unexpected error");
    ErrorResponse::internal()
}

const DRAINING: &str = "draining";

/// The table: the response to each error that the edge or an upstream's service may return.
fn lookup(cause: &(dyn StdError + 'static)) -> Option<ErrorResponse> {
    if let Some(rejected) = cause.downcast_ref::<Rejected>() {
        // A rejected client gets no second request on its connection.
        return Some(
            ErrorResponse::new(rejected.status(), rejected.code(), rejected.to_string()).close(),
        );
    }
    if let Some(error) = cause.downcast_ref::<RequestBodyError>() {
        let response = ErrorResponse::new(error.status(), error.code(), error.to_string());
        return Some(match error {
            RequestBodyError::BudgetSpent(_) => response.retry_after(SOON),
            // Where the next request begins is unknown.
            RequestBodyError::Malformed => response.close(),
            _ => response,
        });
    }
    if let Some(error) = cause.downcast_ref::<ParamsError>() {
        let code = match error {
            ParamsError::NoModel => "model_missing",
            ParamsError::NotJson(_) => "invalid_json",
        };
        let status = StatusCode::BAD_REQUEST;
        return Some(ErrorResponse::new(status, code, error.to_string()));
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
        return Some(shutting_down(*draining));
    }
    if let Some(exhausted) = cause.downcast_ref::<Exhausted>() {
        return Some(quota_exhausted(exhausted.reset));
    }
    if let Some(exceeded) = cause.downcast_ref::<MaxHoldExceeded>() {
        let why = "the request has been held for max-hold";
        return Some(queue_response(
            "would_wait_too_long",
            exceeded.estimate,
            why,
        ));
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
    if let Some(error) = cause.downcast_ref::<ProxyAuthRequired>() {
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
        if chain(error).any(is_lack_of_descriptors) {
            return Some(out_of_descriptors());
        }
        return Some(no_connection(error));
    }
    if let Some(error) = cause.downcast_ref::<Unreachable>() {
        // A client that retries for as long as the upstream is away only keeps itself busy.
        let response = no_connection(&error.source).should_not_retry();
        return Some(response.retry_after(error.retry_after.max(SOON)));
    }
    if let Some(error) = cause.downcast_ref::<HeadTooLarge>() {
        return Some(unreachable(error.to_string()));
    }
    if let Some(error) = cause.downcast_ref::<Http1Required>() {
        return Some(unreachable(error.to_string()));
    }
    if let Some(error) = cause.downcast_ref::<SlowDown>() {
        let status = StatusCode::TOO_MANY_REQUESTS;
        let message = format!("{error}; it did not say until when");
        let response = ErrorResponse::new(status, "upstream_slow_down", message);
        return Some(response.retry_after(SLOW_DOWN));
    }
    if cause.is::<NotProcessed>() {
        return Some(unreachable(
            "the upstream closed the connection, or refused the request, before it acted on it; \
             the request was not processed",
        ));
    }
    if cause.is::<NotSent>() {
        // The inner error says more.
        return cause.source().and_then(lookup).or_else(|| {
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

fn is_lack_of_descriptors(cause: &(dyn StdError + 'static)) -> bool {
    cause.downcast_ref().is_some_and(is_out_of_descriptors)
}

/// The upstream is not at fault: pacegate cannot open a connection to anything.
fn out_of_descriptors() -> ErrorResponse {
    ErrorResponse::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "overloaded",
        "pacegate has as many files and connections open as this system allows it; the request was \
         not sent. Raise the limit on open files (LimitNOFILE=, --ulimit nofile=, ulimit -n), or \
         lower limits.max-connections",
    )
    .retry_after(SOON)
}

fn no_connection(error: &ConnectError) -> ErrorResponse {
    unreachable(format!(
        "{error}; the request was not sent. Check base-url, the network and any proxy"
    ))
}

fn unreachable(message: impl Into<String>) -> ErrorResponse {
    ErrorResponse::new(StatusCode::BAD_GATEWAY, "upstream_unreachable", message)
}

fn shutting_down(draining: Draining) -> ErrorResponse {
    let status = StatusCode::SERVICE_UNAVAILABLE;
    ErrorResponse::new(status, DRAINING, draining.to_string()).retry_after(RESTART)
}

fn queue_refusal(refused: &Refused) -> ErrorResponse {
    let (code, estimate, why) = match *refused {
        Refused::Draining => return shutting_down(Draining),
        Refused::QuotaExhausted { reset } => return quota_exhausted(Some(reset)),
        Refused::QueueFull { estimate, .. } => ("queue_full", estimate, "max-queue is reached"),
        Refused::WouldWaitTooLong { estimate } => (
            "would_wait_too_long",
            estimate,
            "that is more than max-wait",
        ),
    };
    queue_response(code, estimate, why)
}

fn queue_response(code: &'static str, estimate: Duration, why: &str) -> ErrorResponse {
    let seconds = delay_seconds(estimate);
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

/// No client waits for this: the reset is in words, and no digit of it looks like a status.
fn quota_exhausted(reset: Option<Duration>) -> ErrorResponse {
    let advice = match reset {
        Some(reset) => format!(
            "there is some again by {}. Asking before then is of no use: wait, or use another \
             upstream",
            format_reset(reset)
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
fn format_reset(reset: Duration) -> String {
    let reset = jiff::SignedDuration::try_from(reset).unwrap_or(jiff::SignedDuration::MAX);
    let exact = ZonedDateTime::now().saturating_add(reset);
    // The upstream's clock and ours differ: a second before midnight would be the day before.
    let at = exact.round(Unit::Minute).unwrap_or(exact);
    at.strftime("%A, %-d %B, %H:%M (%Z)").to_string()
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::{
        api::{RETRY_WORDS, chat_completions::ChatParams},
        client::error::Stage,
    };

    /// Every error of pacegate's own that is final, with the worst text that a config or a client
    /// can put into it.
    fn final_errors() -> Vec<Box<dyn StdError>> {
        let rejections = [
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
            ChatParams::parse(body.as_bytes()).unwrap_err()
        });
        let sizes =
            [429, 502, 504].map(|kib| RequestBodyError::TooLarge(bytesize::ByteSize::kib(kib)));
        let login = "no credentials in /home/a503/timeout/oauth_creds.json; log in".to_owned();
        let mut all: Vec<Box<dyn StdError>> = vec![
            Box::new(RequestBodyError::Broken("504 timeout".into())),
            Box::new(RequestBodyError::Malformed),
            Box::new(ParamsError::NoModel),
            Box::new(NoRoute::Path),
            Box::new(NoRoute::Upstream),
            Box::new(TokenError::LoginRequired(login)),
            Box::new(Exhausted { reset: None }),
        ];
        // A month, in steps that reach every minute of the day.
        let resets = (0..4320_u64).map(|step| Duration::from_secs(step * 10 * 61));
        for reset in resets {
            all.push(Box::new(Refused::QuotaExhausted { reset }));
            all.push(Box::new(Exhausted { reset: Some(reset) }));
        }
        all.extend(rejections.map(|rejected| Box::new(rejected) as _));
        all.extend(columns.map(|error| Box::new(error) as _));
        all.extend(sizes.map(|error| Box::new(error) as _));
        all
    }

    #[test]
    fn a_lack_of_descriptors_is_not_the_upstreams_fault() {
        let response = |code| {
            let error = ConnectError {
                stage: Stage::Connect,
                address: "api.example:443".into(),
                source: std::io::Error::from_raw_os_error(code).into(),
            };
            to_response(&NotSent(error.into()))
        };
        for code in [libc::EMFILE, libc::ENFILE] {
            let response = response(code);
            assert_eq!(response.status, StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(response.code, "overloaded");
        }
        assert_eq!(response(libc::ECONNREFUSED).code, "upstream_unreachable");
    }

    #[tokio::test]
    async fn no_final_error_contains_a_retry_word() {
        for error in final_errors() {
            let response = to_response(&*error).into_response();
            let status = response.status();
            assert!(
                [400, 401, 403, 404, 405, 413, 414, 415, 431].contains(&status.as_u16()),
                "{error}: {status}"
            );
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let text = String::from_utf8_lossy(&body).to_lowercase();
            for word in RETRY_WORDS {
                assert!(!text.contains(word), "{word}: {text}");
            }
        }
    }

    fn connect_error() -> ConnectError {
        ConnectError {
            stage: crate::client::error::Stage::Connect,
            address: "api.test:443".into(),
            source: "refused".into(),
        }
    }

    #[tokio::test]
    async fn an_upstream_known_to_be_unreachable_is_the_same_error_that_no_client_should_retry() {
        let tried = NotSent(connect_error().into());
        let known = Unreachable {
            source: connect_error(),
            retry_after: Duration::from_millis(3500),
        };
        let tried = to_response(&tried).into_response();
        let known = to_response(&known).into_response();
        assert_eq!(known.status(), StatusCode::BAD_GATEWAY);
        assert_eq!(known.headers()["retry-after"], "4");
        assert_eq!(known.headers()["x-should-retry"], "false");
        assert!(!tried.headers().contains_key("x-should-retry"));
        let text = async |response: http::Response<crate::body::Body>| {
            response.into_body().collect().await.unwrap().to_bytes()
        };
        assert_eq!(text(tried).await, text(known).await);
    }

    #[test]
    fn each_error_of_the_client_has_its_row() {
        let address = || "api.test:443".to_owned();
        let slow_down = SlowDown("calm".into());
        let http1_required = Http1Required {
            address: address(),
            source: "required".into(),
        };
        let not_processed = NotSent(NotProcessed("closed".into()).into());
        let rows: [(&dyn StdError, u16, &str, &str); 3] = [
            (&slow_down, 429, "upstream_slow_down", "fewer requests"),
            (
                &http1_required,
                502,
                "upstream_unreachable",
                "http = \"auto\"",
            ),
            (&not_processed, 502, "upstream_unreachable", "not processed"),
        ];
        for (error, status, code, words) in rows {
            let response = to_response(error);
            assert_eq!((response.status.as_u16(), response.code), (status, code));
            assert!(response.message.contains(words), "{}", response.message);
        }
    }
}
