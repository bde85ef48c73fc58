//! Obtains a new access token with a refresh token ([RFC 6749 §6]).
//!
//! Sends one request. Whether and when to try again is the caller's decision.
//!
//! [RFC 6749 §6]: https://www.rfc-editor.org/rfc/rfc6749#section-6

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body::Body;
use http_body_util::Full;
use pacegate_layers::{error::BoxError, token::BearerToken};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;
use tower::Service;

use super::exchange::{self, ExchangeError, OAuthErrorResponse, parenthesized, printable};
use crate::config;

/// A token endpoint and the client that uses it.
#[derive(Clone, Debug)]
pub struct TokenEndpoint {
    /// The endpoint's URL.
    pub url: Uri,
    /// The client's public id.
    pub client_id: String,
    /// Sent with each request, in this order, after `content-type` and `accept` unless those are
    /// listed here. A header with an empty value reserves the position of one that the request sets
    /// by itself, and is left out if it sets none.
    pub headers: HeaderMap,
}

/// The tokens that a token endpoint issued.
pub struct IssuedTokens {
    /// The new access token.
    pub access_token: SecretString,
    /// The next refresh token; if there is none, the old one stays valid.
    pub refresh_token: Option<SecretString>,
    /// `Bearer` unless the endpoint named another type.
    pub token_type: String,
    /// How long the access token lives, if the response says so.
    pub lifetime: Option<Duration>,
    /// The base URL at which the token may be used; if there is none, the old one stays.
    pub resource_url: Option<String>,
}

/// Why there is no new token. No message holds a token.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// The endpoint refused this refresh token or this client for good.
    #[error("the token endpoint refused: {code}{}", parenthesized(.description))]
    Refused {
        /// The error code of RFC 6749 §5.2.
        code: String,
        /// The endpoint's description.
        description: Option<String>,
    },
    /// There was no usable response; the refresh token may still be valid.
    #[error("the token endpoint gave no usable answer")]
    Transient(#[source] BoxError),
}

/// Requests a token from `endpoint` through `service` that replaces the one `refresh_token` came
/// with.
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
) -> Result<IssuedTokens, RefreshError>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: Body,
    B::Error: Into<BoxError>,
{
    let request = endpoint.request(refresh_token);
    let (status, body) = exchange::send(service, request)
        .await
        .map_err(RefreshError::Transient)?;
    if status.is_success() {
        return IssuedTokens::parse(&body).map_err(|error| RefreshError::Transient(error.into()));
    }
    Err(refusal(status, &body, refresh_token)
        .unwrap_or_else(|| RefreshError::Transient(ExchangeError::Status(status).into())))
}

fn refusal(status: StatusCode, body: &[u8], spent: &SecretString) -> Option<RefreshError> {
    if !matches!(status, StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED) {
        return None;
    }
    let refusal: OAuthErrorResponse = serde_json::from_slice(body).ok()?;
    // Transient codes of other parts of OAuth, which some endpoints send here as well.
    if ["temporarily_unavailable", "server_error", "slow_down"].contains(&&*refusal.error) {
        return None;
    }
    Some(RefreshError::Refused {
        code: printable(&refusal.error, &[spent]),
        description: refusal.error_description.map(|it| printable(&it, &[spent])),
    })
}

// === impl TokenEndpoint ===

impl TokenEndpoint {
    /// The endpoint at `url` for the client `client_id`, with this program's own headers.
    pub fn new(url: Uri, client_id: impl Into<String>) -> Self {
        Self {
            url,
            client_id: client_id.into(),
            headers: exchange::endpoint_headers(&[]),
        }
    }

    /// The endpoint of the configuration, with its headers.
    pub fn configured(oauth: &config::OAuth) -> Self {
        Self {
            headers: exchange::endpoint_headers(&oauth.headers),
            ..Self::new(oauth.token_url.clone(), oauth.client_id.clone())
        }
    }

    fn request(&self, refresh_token: &SecretString) -> Request<Full<Bytes>> {
        let form = [
            ("grant_type", "refresh_token"),
            ("refresh_token", refresh_token.expose_secret()),
            ("client_id", &self.client_id),
        ];
        exchange::form_request(&self.url, &self.headers, &[], &form)
    }
}

// === impl IssuedTokens ===

impl IssuedTokens {
    /// When an access token requested at `now` expires, in milliseconds since 1970.
    pub fn expiry_date(&self, now: SystemTime) -> u64 {
        let lifetime = self.lifetime.unwrap_or(DEFAULT_LIFETIME);
        let since_1970 = (now + lifetime.min(MAX_LIFETIME))
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn parse(body: &[u8]) -> Result<Self, ExchangeError> {
        /// RFC 6749 §5.1. The lifetime is parsed leniently: a response refused for a detail would
        /// have cost a refresh token.
        #[derive(Deserialize)]
        struct AccessTokenResponse {
            access_token: Option<String>,
            refresh_token: Option<String>,
            token_type: Option<String>,
            #[serde(default)]
            expires_in: Value,
            resource_url: Option<String>,
        }

        let response: AccessTokenResponse =
            serde_json::from_slice(body).map_err(|_| ExchangeError::NotJson)?;
        let access_token = response.access_token.unwrap_or_default();
        if access_token.is_empty() || BearerToken::new(&access_token, 0).is_err() {
            return Err(ExchangeError::NoToken);
        }
        let seconds = match &response.expires_in {
            Value::String(text) => text.parse().ok(),
            other => other.as_f64(),
        };
        Ok(Self {
            access_token: access_token.into(),
            refresh_token: response
                .refresh_token
                .filter(|it| !it.is_empty())
                .map(Into::into),
            token_type: response.token_type.unwrap_or_else(|| "Bearer".to_owned()),
            // A token that is never valid is none: zero is a way to name no lifetime.
            lifetime: seconds
                .and_then(|it| Duration::try_from_secs_f64(it).ok())
                .filter(|lifetime| *lifetime >= SHORTEST_LIFETIME),
            resource_url: response.resource_url.filter(|it| !it.is_empty()),
        })
    }
}

/// The lifetime if the endpoint names none, which RFC 6749 allows; if it is too long, the upstream
/// answers 401.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(3600);
/// The shortest lifetime believed: the unit of `expires_in`. With less, every request would find its
/// token expired and renew it.
const SHORTEST_LIFETIME: Duration = Duration::from_secs(1);
/// The longest lifetime believed, a year: keeps absurd values within the range of dates.
const MAX_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

impl fmt::Debug for IssuedTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedTokens")
            .field("token_type", &self.token_type)
            .field("lifetime", &self.lifetime)
            .field("resource_url", &self.resource_url)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use http::HeaderValue;
    use http_body_util::BodyExt;

    use super::*;

    fn endpoint() -> TokenEndpoint {
        TokenEndpoint::new(Uri::from_static("https://id.example/token"), "the client")
    }

    async fn refresh_with(status: u16, body: &'static str) -> Result<IssuedTokens, RefreshError> {
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
            "grant_type=refresh_token&refresh_token=a%2Bb&client_id=the%20client"
        );
    }

    #[tokio::test]
    async fn what_an_answer_leaves_out_is_left_to_the_caller() {
        let tokens = refresh_with(200, r#"{"access_token":"a","expires_in":"60","x":1}"#)
            .await
            .unwrap();
        assert_eq!(tokens.lifetime, Some(Duration::from_secs(60)));
        assert!(tokens.refresh_token.is_none() && tokens.resource_url.is_none());
        for none in ["-1", "0", "\"0\"", "0.5", "null"] {
            let body = format!(r#"{{"access_token":"a","expires_in":{none}}}"#);
            let tokens = refresh_with(200, body.leak()).await.unwrap();
            assert_eq!(tokens.lifetime, None, "{none}");
        }
    }

    #[tokio::test]
    async fn only_a_readable_400_or_401_is_a_refusal() {
        for status in [400, 401] {
            let error = refresh_with(status, r#"{"error":"invalid_grant"}"#)
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
            let error = refresh_with(status, body).await.unwrap_err();
            assert!(
                matches!(error, RefreshError::Transient(_)),
                "{status} {body}"
            );
        }
    }

    #[tokio::test]
    async fn no_error_repeats_the_token() {
        let body = r#"{"error":"canary","error_description":"\u001b[1m canary is spent"}"#;
        let error = refresh_with(400, body).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the token endpoint refused: … ([1m … is spent)"
        );
        let error = refresh_with(200, r#"{"access_token":["canary"]}"#)
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
