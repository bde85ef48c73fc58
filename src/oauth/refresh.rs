//! Buying a new access token with a refresh token ([RFC 6749 §6]).
//!
//! One request, one verdict. Whether and when to ask again is the caller's business.
//!
//! [RFC 6749 §6]: https://www.rfc-editor.org/rfc/rfc6749#section-6

use std::{fmt, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body::Body;
use http_body_util::{BodyExt, Full, Limited};
use pacegate_layers::{error::BoxError, token::BearerToken};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;
use tower::{Service, ServiceExt};

use super::form;

/// A token endpoint and who asks there.
#[derive(Clone, Debug)]
pub struct TokenEndpoint {
    /// Where the requests go.
    pub url: Uri,
    /// The client's public id.
    pub client_id: String,
    /// Sent with each request, after `content-type` and `accept`; one of those named here
    /// replaces the usual one.
    pub headers: HeaderMap,
}

/// What a token endpoint gave.
pub struct Grant {
    /// The new access token.
    pub access_token: SecretString,
    /// The next refresh token; without one, the old one stays good.
    pub refresh_token: Option<SecretString>,
    /// `Bearer` unless it said otherwise.
    pub token_type: String,
    /// How long the access token lives, where the answer says so.
    pub lifetime: Option<Duration>,
    /// Where the token may be used; without one, nothing has changed.
    pub resource_url: Option<String>,
}

/// Why there is no new token. No text holds a token.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// This refresh token, or this client, will not get one however often it asks.
    #[error("the token endpoint refused: {code}{}", in_brackets(.description))]
    Refused {
        /// The error code of RFC 6749 §5.2.
        code: String,
        /// What else it said.
        description: Option<String>,
    },
    /// The endpoint did not get to an answer; the refresh token may still be good.
    #[error("the token endpoint gave no usable answer")]
    Transient(#[source] BoxError),
}

/// What was wrong with an answer or the lack of one.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("no answer within {}s", TOTAL.as_secs())]
    Elapsed,
    #[error("the answer has no access_token that a header can carry")]
    NoToken,
    #[error("the answer is not the JSON of a token")]
    NotJson,
    #[error("status {0}")]
    Status(StatusCode),
}

/// Asks `endpoint` for a token that replaces the one `refresh_token` came with, through
/// `service`.
///
/// # Errors
///
/// [`RefreshError`], after eight seconds at the latest.
///
/// # Cancel safety
///
/// Not cancel safe: a dropped future may have spent the refresh token and lost the next one. Run
/// it in a task of its own.
pub async fn refresh<S, B>(
    service: S,
    endpoint: &TokenEndpoint,
    refresh_token: &SecretString,
) -> Result<Grant, RefreshError>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: Body,
    B::Error: Into<BoxError>,
{
    let exchange = async {
        let request = endpoint.request(refresh_token);
        let response = service.oneshot(request).await.map_err(Into::into)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY)
            .collect()
            .await?;
        Ok::<_, BoxError>((status, body.to_bytes()))
    };
    let (status, body) = tokio::time::timeout(TOTAL, exchange)
        .await
        .unwrap_or_else(|_| Err(Unusable::Elapsed.into()))
        .map_err(RefreshError::Transient)?;
    if status.is_success() {
        return Grant::parse(&body).map_err(|error| RefreshError::Transient(error.into()));
    }
    Err(refusal(status, &body, refresh_token)
        .unwrap_or_else(|| RefreshError::Transient(Unusable::Status(status).into())))
}

/// Others take the lock on the shared file away after 10 s; reading and writing it need the rest.
const TOTAL: Duration = Duration::from_secs(8);

/// An answer is a few KiB.
const MAX_BODY: usize = 64 * 1024;

fn refusal(status: StatusCode, body: &[u8], spent: &SecretString) -> Option<RefreshError> {
    /// RFC 6749 §5.2.
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
        #[serde(default)]
        error_description: Option<String>,
    }

    if !matches!(status, StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED) {
        return None;
    }
    let refusal: Refusal = serde_json::from_slice(body).ok()?;
    // Codes that other parts of OAuth use for "later" and that some endpoints answer here.
    if ["temporarily_unavailable", "server_error", "slow_down"].contains(&&*refusal.error) {
        return None;
    }
    Some(RefreshError::Refused {
        code: presentable(&refusal.error, spent),
        description: refusal.error_description.map(|it| presentable(&it, spent)),
    })
}

/// A stranger's words, fit for a log line: short, printable, and without the token should they
/// repeat it.
fn presentable(text: &str, secret: &SecretString) -> String {
    const LONGEST: usize = 200;
    let secret = secret.expose_secret();
    let text = if secret.is_empty() {
        text.to_owned()
    } else {
        text.replace(secret, "…")
    };
    text.chars()
        .filter(|it| !it.is_control())
        .take(LONGEST)
        .collect()
}

fn in_brackets(description: &Option<String>) -> String {
    description
        .as_ref()
        .map(|it| format!(" ({it})"))
        .unwrap_or_default()
}

// === impl TokenEndpoint ===

impl TokenEndpoint {
    /// The endpoint at `url`, asked as `client_id`, under the name of this program.
    pub fn new(url: Uri, client_id: impl Into<String>) -> Self {
        const AGENT: HeaderValue =
            HeaderValue::from_static(concat!("pacegate/", env!("CARGO_PKG_VERSION")));
        let headers = HeaderMap::from_iter([(header::USER_AGENT, AGENT)]);
        Self {
            url,
            client_id: client_id.into(),
            headers,
        }
    }

    fn request(&self, refresh_token: &SecretString) -> Request<Full<Bytes>> {
        const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");
        const JSON: HeaderValue = HeaderValue::from_static("application/json");
        let form = form::encode(&[
            ("grant_type", "refresh_token"),
            ("refresh_token", refresh_token.expose_secret()),
            ("client_id", &self.client_id),
        ]);
        let mut request = Request::new(Full::from(form));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.url.clone();
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, FORM);
        headers.insert(header::ACCEPT, JSON);
        headers.extend(self.headers.clone());
        request
    }
}

// === impl Grant ===

impl Grant {
    fn parse(body: &[u8]) -> Result<Self, Unusable> {
        /// RFC 6749 §5.1. The lifetime is read leniently: an answer that is refused for a detail
        /// has cost a refresh token.
        #[derive(Deserialize)]
        struct Answer {
            access_token: Option<String>,
            refresh_token: Option<String>,
            token_type: Option<String>,
            #[serde(default)]
            expires_in: Value,
            resource_url: Option<String>,
        }

        let answer: Answer = serde_json::from_slice(body).map_err(|_| Unusable::NotJson)?;
        let access_token = answer.access_token.unwrap_or_default();
        if access_token.is_empty() || BearerToken::new(&access_token, 0).is_err() {
            return Err(Unusable::NoToken);
        }
        let seconds = match &answer.expires_in {
            Value::String(text) => text.parse().ok(),
            other => other.as_f64(),
        };
        Ok(Self {
            access_token: access_token.into(),
            refresh_token: answer
                .refresh_token
                .filter(|it| !it.is_empty())
                .map(Into::into),
            token_type: answer.token_type.unwrap_or_else(|| "Bearer".to_owned()),
            lifetime: seconds.and_then(|it| Duration::try_from_secs_f64(it).ok()),
            resource_url: answer.resource_url.filter(|it| !it.is_empty()),
        })
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant")
            .field("token_type", &self.token_type)
            .field("lifetime", &self.lifetime)
            .field("resource_url", &self.resource_url)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    fn endpoint() -> TokenEndpoint {
        TokenEndpoint::new(Uri::from_static("https://id.example/token"), "the client")
    }

    async fn answer(status: u16, body: &'static str) -> Result<Grant, RefreshError> {
        let service = tower::service_fn(move |_request| async move {
            let mut response = Response::new(Full::<Bytes>::from(body));
            *response.status_mut() = status.try_into().unwrap();
            Ok::<_, BoxError>(response)
        });
        refresh(service, &endpoint(), &"canary".into()).await
    }

    #[tokio::test]
    async fn sends_the_form_and_headers_in_the_order_of_the_capture() {
        let mut endpoint = endpoint();
        endpoint.headers = HeaderMap::new();
        for (name, value) in [("accept-language", "*"), ("user-agent", "node")] {
            endpoint
                .headers
                .insert(name, HeaderValue::from_static(value));
        }
        let request = endpoint.request(&"a+b".into());
        let headers: Vec<_> = request
            .headers()
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(
            headers,
            ["content-type", "accept", "accept-language", "user-agent"]
        );
        let body = request.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(
            body,
            "grant_type=refresh_token&refresh_token=a%2Bb&client_id=the+client"
        );
    }

    #[tokio::test]
    async fn what_an_answer_leaves_out_is_left_to_the_caller() {
        let grant = answer(200, r#"{"access_token":"a","expires_in":"60","x":1}"#)
            .await
            .unwrap();
        assert_eq!(grant.lifetime, Some(Duration::from_secs(60)));
        assert!(grant.refresh_token.is_none() && grant.resource_url.is_none());
        let grant = answer(200, r#"{"access_token":"a","expires_in":-1}"#)
            .await
            .unwrap();
        assert_eq!(grant.lifetime, None);
    }

    #[tokio::test]
    async fn only_a_readable_400_or_401_is_a_refusal() {
        for status in [400, 401] {
            let error = answer(status, r#"{"error":"invalid_grant"}"#)
                .await
                .unwrap_err();
            assert!(matches!(error, RefreshError::Refused { .. }), "{status}");
        }
        for (status, body) in [
            (200, "{}"),
            (200, "<html>"),
            (200, r#"{"access_token":"a\nb"}"#),
            (302, ""),
            (400, "<html>"),
            (400, r#"{"error":"slow_down"}"#),
            (403, r#"{"error":"invalid_grant"}"#),
            (429, r#"{"error":"slow_down"}"#),
            (500, r#"{"error":"invalid_grant"}"#),
        ] {
            let error = answer(status, body).await.unwrap_err();
            assert!(
                matches!(error, RefreshError::Transient(_)),
                "{status} {body}"
            );
        }
    }

    #[tokio::test]
    async fn no_error_repeats_the_token() {
        let body = r#"{"error":"canary","error_description":"\u001b[1m canary is spent"}"#;
        let error = answer(400, body).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the token endpoint refused: … ([1m … is spent)"
        );
        let error = answer(200, r#"{"access_token":["canary"]}"#)
            .await
            .unwrap_err();
        assert!(!format!("{error:?}").contains("canary"));
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_after_eight_seconds() {
        let service = tower::service_fn(|_request| {
            std::future::pending::<Result<Response<Full<Bytes>>, BoxError>>()
        });
        let error = refresh(service, &endpoint(), &"canary".into())
            .await
            .unwrap_err();
        assert_eq!(error.source().unwrap().to_string(), "no answer within 8s");
    }
}
