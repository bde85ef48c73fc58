//! One request to an OAuth endpoint, and its response.

use std::time::Duration;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
};
use http_body::Body;
use http_body_util::{BodyExt, Full, Limited};
use pacegate_layers::error::BoxError;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tower::{Service, ServiceExt};

use super::form;
use crate::{
    config::{HeaderField, HeaderRule},
    dialect,
};

/// Why a request brought no usable response.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExchangeError {
    #[error("no answer within {}s", TOTAL_TIMEOUT.as_secs())]
    Elapsed,
    #[error("the answer has no access_token that a header can carry")]
    NoToken,
    #[error("the answer is not the JSON of a login that has begun")]
    NotAnAuthorization,
    #[error("the answer is not the JSON of a token")]
    NotJson,
    #[error("the answer names a page that is no http or https URL")]
    NotAPage,
    #[error("status {0}")]
    Status(StatusCode),
}

/// RFC 6749 §5.2.
#[derive(Deserialize)]
pub(super) struct OAuthErrorResponse {
    pub(super) error: String,
    #[serde(default)]
    pub(super) error_description: Option<String>,
}

/// Other programs steal the lock of the shared file after 10 s; reading and writing the file take
/// the rest.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(8);

/// Far more than the few KiB of a response.
const MAX_BODY: usize = 64 * 1024;

/// The headers in `listed`, with an empty value for a reserved position; this program's name if
/// nothing is listed.
pub(super) fn endpoint_headers(listed: &[HeaderField]) -> HeaderMap {
    const AGENT: HeaderValue =
        HeaderValue::from_static(concat!("pacegate/", env!("CARGO_PKG_VERSION")));
    if listed.is_empty() {
        return HeaderMap::from_iter([(header::USER_AGENT, AGENT)]);
    }
    let value = |rule: &HeaderRule| match rule {
        HeaderRule::Set(value) | HeaderRule::SetIfAbsent(value) | HeaderRule::Narrow(value) => {
            value.clone()
        }
        HeaderRule::Place => HeaderValue::from_static(""),
    };
    listed
        .iter()
        .map(|field| (field.name.clone(), value(&field.rule)))
        .collect()
}

/// A form to `url` with `fields` as [`endpoint_headers`] made them. `own` fills reserved positions.
pub(super) fn form_request(
    url: &Uri,
    fields: &HeaderMap,
    own: &[(HeaderName, HeaderValue)],
    form: &[(&str, &str)],
) -> Request<Full<Bytes>> {
    let usual = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded"),
        ),
        (header::ACCEPT, HeaderValue::from_static("application/json")),
    ];
    let mut headers = HeaderMap::new();
    for (name, value) in &usual {
        if !fields.contains_key(name) {
            headers.insert(name, value.clone());
        }
    }
    for (name, value) in fields {
        let value = if value.is_empty() {
            let known = usual.iter().chain(own).find(|(known, _)| known == name);
            match known {
                Some((_, known)) => known,
                // The HTTP client fills the reserved position of `host`.
                None if name == header::HOST => value,
                None => continue,
            }
        } else {
            value
        };
        headers.insert(name, value.clone());
    }
    let mut request = Request::new(Full::from(form::encode(form)));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = url.clone();
    *request.headers_mut() = headers;
    request
}

/// Sends `request` and reads the whole response, decoding its body.
///
/// # Errors
///
/// The error of the client or the body, or [`ExchangeError::Elapsed`] after eight seconds.
pub(super) async fn send<S, B>(
    service: S,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), BoxError>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: Body,
    B::Error: Into<BoxError>,
{
    let exchange = async {
        let (head, body) = service
            .oneshot(request)
            .await
            .map_err(Into::into)?
            .into_parts();
        let body = Limited::new(body, MAX_BODY).collect().await?.to_bytes();
        let body = Bytes::from(dialect::decoded_prefix(&head.headers, &body).into_owned());
        Ok((head.status, body))
    };
    tokio::time::timeout(TOTAL_TIMEOUT, exchange)
        .await
        .unwrap_or_else(|_| Err(ExchangeError::Elapsed.into()))
}

/// Text from a server, made fit for a log line or a terminal: short, printable, and with `secrets`
/// masked should the server repeat them.
pub(super) fn printable(text: &str, secrets: &[&SecretString]) -> String {
    const LONGEST: usize = 200;
    secrets
        .iter()
        .map(|secret| secret.expose_secret())
        .filter(|secret| !secret.is_empty())
        .fold(text.to_owned(), |text, secret| text.replace(secret, "…"))
        .chars()
        .filter(|it| !it.is_control())
        .take(LONGEST)
        .collect()
}

pub(super) fn parenthesized(description: &Option<String>) -> String {
    description
        .as_ref()
        .map(|it| format!(" ({it})"))
        .unwrap_or_default()
}
