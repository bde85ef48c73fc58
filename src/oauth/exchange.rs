//! One request to an OAuth endpoint: what every one of them looks like, and what came back.

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

/// What was wrong with an answer or the lack of one.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("no answer within {}s", TOTAL.as_secs())]
    Elapsed,
    #[error("the answer has no access_token that a header can carry")]
    NoToken,
    #[error("the answer is not the JSON of a login that has begun")]
    NotADevice,
    #[error("the answer is not the JSON of a token")]
    NotJson,
    #[error("the answer names a page that is no http or https URL")]
    NotAPage,
    #[error("status {0}")]
    Status(StatusCode),
}

/// RFC 6749 §5.2.
#[derive(Deserialize)]
pub(super) struct Refusal {
    pub(super) error: String,
    #[serde(default)]
    pub(super) error_description: Option<String>,
}

/// Others take the lock on the shared file away after 10 s; reading and writing it need the rest.
const TOTAL: Duration = Duration::from_secs(8);

/// An answer is a few KiB.
const MAX_BODY: usize = 64 * 1024;

/// The fields in `listed`, a place as an empty value; where nothing is listed, this program's name.
pub(super) fn headers(listed: &[HeaderField]) -> HeaderMap {
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

/// A form to `url`, under `fields` as [`headers`] made them. `own` is what this request puts into a
/// place, if there is one for it.
pub(super) fn request(
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
                // The HTTP client finds its place and fills it.
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

/// Sends `request` and reads the whole answer, decoded where it is encoded.
///
/// # Errors
///
/// Whatever kept the answer away, after eight seconds at the latest.
pub(super) async fn whole<S, B>(
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
    tokio::time::timeout(TOTAL, exchange)
        .await
        .unwrap_or_else(|_| Err(Unusable::Elapsed.into()))
}

/// A stranger's words, fit for a line of a log or a terminal: short, printable, and without the
/// secrets should they repeat them.
pub(super) fn presentable(text: &str, secrets: &[&SecretString]) -> String {
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

pub(super) fn in_brackets(description: &Option<String>) -> String {
    description
        .as_ref()
        .map(|it| format!(" ({it})"))
        .unwrap_or_default()
}
