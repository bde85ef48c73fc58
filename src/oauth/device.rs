//! The device authorization grant ([RFC 8628]) with PKCE: begin, show the code, poll.
//!
//! Polls keep the interval that the server asks for, from the end of one to the start of the next.
//! After a transient failure (a server error, a malformed response, a broken connection) the next
//! poll goes on; only an error code of the server, or the expiry of the device code, ends the
//! login.
//!
//! [RFC 8628]: https://www.rfc-editor.org/rfc/rfc8628

use std::{fmt, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Uri, uri::Scheme};
use http_body::Body;
use http_body_util::Full;
use pacegate_layers::error::BoxError;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::time::{Instant, sleep_until};
use tower::Service;
use uuid::Uuid;

use super::{
    exchange::{self, ExchangeError, OAuthErrorResponse, parenthesized, printable},
    pkce::Verifier,
    refresh::{IssuedTokens, TokenEndpoint},
};

/// The endpoints of a login.
#[derive(Clone, Debug)]
pub struct DeviceEndpoint {
    /// The device authorization endpoint.
    pub url: Uri,
    /// The requested scopes, separated by spaces.
    pub scope: String,
    /// The token endpoint, the client id, and the request headers for both endpoints.
    pub token: TokenEndpoint,
}

/// A login that waits for confirmation in a browser.
pub struct DeviceAuthorization {
    /// The code to type in, if the page asks for it.
    pub user_code: String,
    /// The page to open.
    pub verification_uri: Uri,
    /// The page with the code filled in, if the server offers one.
    pub verification_uri_complete: Option<Uri>,
    /// When the code expires.
    pub expires: Instant,
    device_code: SecretString,
    interval: Duration,
}

/// A poll that did not end the login.
#[derive(Debug)]
pub enum PollEvent {
    /// The server asked for a longer interval: this one from now on.
    SlowDown(Duration),
    /// The poll failed; the next one may succeed.
    Transient(BoxError),
}

/// Why a login failed. No message holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The user denied it.
    #[error("the login was denied")]
    Denied,
    /// The code expired first.
    #[error("the code has expired before anybody confirmed it")]
    Expired,
    /// The server refused it.
    #[error("the login was refused: {code}{}", parenthesized(.description))]
    Refused {
        /// The error code of RFC 6749 §5.2.
        code: String,
        /// The server's description.
        description: Option<String>,
    },
    /// The first request failed.
    #[error("the login could not begin")]
    NotStarted(#[source] BoxError),
}

enum PollOutcome {
    Final(LoginError),
    Granted(IssuedTokens),
    Pending,
    SlowDown,
    Transient(BoxError),
}

/// Requests a device authorization from `endpoint`, to be proven with `verifier`.
///
/// # Errors
///
/// [`LoginError::Refused`] and [`LoginError::NotStarted`], after eight seconds at the latest.
///
/// # Cancel safety
///
/// Cancel safe: a dropped future leaves a code on the server, which expires.
pub async fn begin<S, B>(
    service: S,
    endpoint: &DeviceEndpoint,
    verifier: &Verifier,
) -> Result<DeviceAuthorization, LoginError>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: Body,
    B::Error: Into<BoxError>,
{
    let form = [
        ("client_id", &*endpoint.token.client_id),
        ("scope", &endpoint.scope),
        ("code_challenge", &verifier.challenge()),
        ("code_challenge_method", "S256"),
    ];
    let id = Uuid::new_v4().to_string();
    let own = HeaderValue::from_str(&id).map(|id| (X_REQUEST_ID, id)).ok();
    let request = exchange::form_request(
        &endpoint.url,
        &endpoint.token.headers,
        own.as_slice(),
        &form,
    );
    let (status, body) = exchange::send(service, request)
        .await
        .map_err(LoginError::NotStarted)?;
    if let Ok(refusal) = serde_json::from_slice::<OAuthErrorResponse>(&body) {
        // No secret was sent that the response could repeat.
        return Err(LoginError::Refused {
            code: printable(&refusal.error, &[]),
            description: refusal.error_description.map(|it| printable(&it, &[])),
        });
    }
    if !status.is_success() {
        return Err(LoginError::NotStarted(ExchangeError::Status(status).into()));
    }
    DeviceAuthorization::parse(&body).map_err(|error| LoginError::NotStarted(error.into()))
}

/// Some services require it on the first request; its value has no meaning.
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Polls until the user has decided or `login` has expired, and passes the failures of polls to
/// `on_event`.
///
/// # Errors
///
/// [`LoginError`], except for [`LoginError::NotStarted`].
///
/// # Cancel safety
///
/// Not cancel safe: a token that was on its way when the future was dropped is lost.
pub async fn poll<S, B>(
    service: S,
    endpoint: &TokenEndpoint,
    login: &DeviceAuthorization,
    verifier: &Verifier,
    mut on_event: impl FnMut(PollEvent),
) -> Result<IssuedTokens, LoginError>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>> + Clone,
    S::Error: Into<BoxError>,
    B: Body,
    B::Error: Into<BoxError>,
{
    let mut interval = login.interval;
    loop {
        let next = Instant::now() + interval;
        if next >= login.expires {
            sleep_until(login.expires).await;
            return Err(LoginError::Expired);
        }
        sleep_until(next).await;
        let form = [
            ("grant_type", DEVICE_GRANT_TYPE),
            ("client_id", &*endpoint.client_id),
            ("device_code", login.device_code.expose_secret()),
            ("code_verifier", verifier.expose()),
        ];
        let request = exchange::form_request(&endpoint.url, &endpoint.headers, &[], &form);
        let outcome = match exchange::send(service.clone(), request).await {
            Ok((status, body)) => {
                poll_outcome(status, &body, &[&login.device_code, verifier.secret()])
            }
            Err(error) => {
                if matches!(error.downcast_ref(), Some(ExchangeError::Elapsed)) {
                    // RFC 8628 §3.5: poll less often after a time-out.
                    interval = interval.saturating_mul(2).min(MAX_INTERVAL.max(interval));
                }
                PollOutcome::Transient(error)
            }
        };
        match outcome {
            PollOutcome::Final(error) => return Err(error),
            PollOutcome::Granted(tokens) => return Ok(tokens),
            PollOutcome::Pending => {}
            PollOutcome::SlowDown => {
                interval = interval.saturating_add(SLOW_DOWN_STEP);
                on_event(PollEvent::SlowDown(interval));
            }
            PollOutcome::Transient(error) => on_event(PollEvent::Transient(error)),
        }
    }
}

/// RFC 8628 §3.4.
const DEVICE_GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// RFC 8628 §3.5: added at each `slow_down`.
const SLOW_DOWN_STEP: Duration = Duration::from_secs(5);

/// The longest interval that time-outs alone lead to: a user is waiting.
const MAX_INTERVAL: Duration = Duration::from_secs(60);

fn poll_outcome(status: StatusCode, body: &[u8], sent: &[&SecretString]) -> PollOutcome {
    let transient = |error: ExchangeError| PollOutcome::Transient(error.into());
    if status.is_server_error() {
        return transient(ExchangeError::Status(status));
    }
    // Read for any status: some services return "pending" with a 200, a 403 or a 428.
    let refusal = serde_json::from_slice::<OAuthErrorResponse>(body);
    match refusal.as_ref().map(|refusal| &*refusal.error) {
        Ok("authorization_pending") => PollOutcome::Pending,
        Ok("slow_down") => PollOutcome::SlowDown,
        Ok("access_denied") => PollOutcome::Final(LoginError::Denied),
        Ok("expired_token") => PollOutcome::Final(LoginError::Expired),
        Ok("server_error" | "temporarily_unavailable") => transient(ExchangeError::Status(status)),
        Ok(code) => PollOutcome::Final(LoginError::Refused {
            code: printable(code, sent),
            description: refusal
                .as_ref()
                .ok()
                .and_then(|it| it.error_description.as_ref())
                .map(|it| printable(it, sent)),
        }),
        Err(_) if status == StatusCode::TOO_MANY_REQUESTS => PollOutcome::SlowDown,
        Err(_) if status.is_success() => match IssuedTokens::parse(body) {
            Ok(tokens) => PollOutcome::Granted(tokens),
            Err(error) => transient(error),
        },
        Err(_) => transient(ExchangeError::Status(status)),
    }
}

// === impl DeviceAuthorization ===

impl DeviceAuthorization {
    fn parse(body: &[u8]) -> Result<Self, ExchangeError> {
        /// RFC 8628 §3.2.
        #[derive(Deserialize)]
        struct DeviceAuthorizationResponse {
            device_code: String,
            user_code: String,
            // The name that some services used before the RFC.
            #[serde(alias = "verification_url")]
            verification_uri: String,
            verification_uri_complete: Option<String>,
            expires_in: f64,
            interval: Option<f64>,
        }

        let response: DeviceAuthorizationResponse =
            serde_json::from_slice(body).map_err(|_| ExchangeError::NotAnAuthorization)?;
        let seconds = |it| Duration::try_from_secs_f64(it).ok();
        let lifetime = seconds(response.expires_in).ok_or(ExchangeError::NotAnAuthorization)?;
        let interval = response.interval.and_then(seconds);
        Ok(Self {
            user_code: printable(&response.user_code, &[]),
            verification_uri: web_uri(&response.verification_uri).ok_or(ExchangeError::NotAPage)?,
            verification_uri_complete: response
                .verification_uri_complete
                .as_deref()
                .and_then(web_uri),
            expires: Instant::now() + lifetime.min(MAX_LIFETIME),
            device_code: response.device_code.into(),
            interval: interval.unwrap_or(DEFAULT_INTERVAL).max(MIN_INTERVAL),
        })
    }
}

/// RFC 8628 §3.2: the interval if the server names none.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(5);
/// The shortest interval, also if the server says 0.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// The longest lifetime believed, a day: keeps absurd values within the clock's range.
const MAX_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// An http or https URL: a browser must not be made to open anything else.
fn web_uri(text: &str) -> Option<Uri> {
    let uri = text.parse::<Uri>().ok()?;
    let is_web = [&Scheme::HTTP, &Scheme::HTTPS].contains(&uri.scheme()?);
    is_web.then_some(uri)
}

impl fmt::Debug for DeviceAuthorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceAuthorization")
            .field("verification_uri", &self.verification_uri)
            .field("interval", &self.interval)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
