//! A login on another device ([RFC 8628]) with PKCE: begin, tell the person, poll.
//!
//! Polls keep the distance that the server asks for, counted from the end of one to the begin of
//! the next. What may pass (a server error, nonsense, a broken connection) is asked again; only a
//! word of the server's, or the end of the code's life, ends the login.
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
    exchange::{self, Refusal, Unusable, in_brackets, presentable},
    pkce::Verifier,
    refresh::{Grant, TokenEndpoint},
};

/// Where logins begin.
#[derive(Clone, Debug)]
pub struct DeviceEndpoint {
    /// Where the first request goes.
    pub url: Uri,
    /// What the login is for, separated by spaces.
    pub scope: String,
    /// Where the token is polled for, as whom, and under which header fields both requests go.
    pub token: TokenEndpoint,
}

/// A login that waits for its person.
pub struct Login {
    /// What the person types in, if the page asks for it.
    pub user_code: String,
    /// The page.
    pub page: Uri,
    /// The page with the code typed in, where there is one.
    pub page_with_code: Option<Uri>,
    /// When it is too late.
    pub expires: Instant,
    device_code: SecretString,
    interval: Duration,
}

/// Something between two polls that is worth telling.
#[derive(Debug)]
pub enum Trouble {
    /// The server wants more time between two polls: so much from now on.
    SlowDown(Duration),
    /// A poll brought nothing; the next may.
    Transient(BoxError),
}

/// Why there is no login. No text holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The person said no.
    #[error("the login was denied")]
    Denied,
    /// Nobody decided in time.
    #[error("the code has expired before anybody confirmed it")]
    Expired,
    /// The server wants nothing of it.
    #[error("the login was refused: {code}{}", in_brackets(.description))]
    Refused {
        /// The error code of RFC 6749 §5.2.
        code: String,
        /// What else it said.
        description: Option<String>,
    },
    /// The login could not begin.
    #[error("the login could not begin")]
    Unusable(#[source] BoxError),
}

enum Verdict {
    Final(LoginError),
    Granted(Grant),
    Pending,
    SlowDown,
    Transient(BoxError),
}

/// Begins a login at `endpoint`, to be proven with `verifier`.
///
/// # Errors
///
/// [`LoginError::Refused`] and [`LoginError::Unusable`], after eight seconds at the latest.
///
/// # Cancel safety
///
/// A dropped future leaves nothing but a code on the server that expires.
pub async fn begin<S, B>(
    service: S,
    endpoint: &DeviceEndpoint,
    verifier: &Verifier,
) -> Result<Login, LoginError>
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
    let request = exchange::request(
        &endpoint.url,
        &endpoint.token.headers,
        own.as_slice(),
        &form,
    );
    let (status, body) = exchange::whole(service, request)
        .await
        .map_err(LoginError::Unusable)?;
    if let Ok(refusal) = serde_json::from_slice::<Refusal>(&body) {
        // Nothing secret was sent.
        return Err(LoginError::Refused {
            code: presentable(&refusal.error, &[]),
            description: refusal.error_description.map(|it| presentable(&it, &[])),
        });
    }
    if !status.is_success() {
        return Err(LoginError::Unusable(Unusable::Status(status).into()));
    }
    Login::parse(&body).map_err(|error| LoginError::Unusable(error.into()))
}

/// Some services want it on the first request; it says nothing.
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Polls until the person has decided or `login` has expired, and tells `trouble` what was wrong
/// with a poll.
///
/// # Errors
///
/// [`LoginError`], except for [`LoginError::Unusable`].
///
/// # Cancel safety
///
/// A token that was on its way when the future was dropped is lost; nothing else is.
pub async fn poll<S, B>(
    service: S,
    endpoint: &TokenEndpoint,
    login: &Login,
    verifier: &Verifier,
    mut trouble: impl FnMut(Trouble),
) -> Result<Grant, LoginError>
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
            ("grant_type", GRANT_TYPE),
            ("client_id", &*endpoint.client_id),
            ("device_code", login.device_code.expose_secret()),
            ("code_verifier", verifier.expose()),
        ];
        let request = exchange::request(&endpoint.url, &endpoint.headers, &[], &form);
        let verdict = match exchange::whole(service.clone(), request).await {
            Ok((status, body)) => judge(status, &body, &[&login.device_code, verifier.secret()]),
            Err(error) => {
                if matches!(error.downcast_ref(), Some(Unusable::Elapsed)) {
                    // RFC 8628 §3.5: poll less often after a time-out.
                    interval = interval
                        .saturating_mul(2)
                        .min(LONGEST_INTERVAL.max(interval));
                }
                Verdict::Transient(error)
            }
        };
        match verdict {
            Verdict::Final(error) => return Err(error),
            Verdict::Granted(grant) => return Ok(grant),
            Verdict::Pending => {}
            Verdict::SlowDown => {
                interval = interval.saturating_add(SLOW_DOWN);
                trouble(Trouble::SlowDown(interval));
            }
            Verdict::Transient(error) => trouble(Trouble::Transient(error)),
        }
    }
}

/// RFC 8628 §3.4.
const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// RFC 8628 §3.5, for each time that the server says so.
const SLOW_DOWN: Duration = Duration::from_secs(5);

/// Time-outs alone make no interval longer: a person is waiting.
const LONGEST_INTERVAL: Duration = Duration::from_secs(60);

fn judge(status: StatusCode, body: &[u8], sent: &[&SecretString]) -> Verdict {
    let transient = |error: Unusable| Verdict::Transient(error.into());
    if status.is_server_error() {
        return transient(Unusable::Status(status));
    }
    // Whatever the status: some services say "pending" with a 200, a 403 or a 428.
    let refusal = serde_json::from_slice::<Refusal>(body);
    match refusal.as_ref().map(|refusal| &*refusal.error) {
        Ok("authorization_pending") => Verdict::Pending,
        Ok("slow_down") => Verdict::SlowDown,
        Ok("access_denied") => Verdict::Final(LoginError::Denied),
        Ok("expired_token") => Verdict::Final(LoginError::Expired),
        Ok("server_error" | "temporarily_unavailable") => transient(Unusable::Status(status)),
        Ok(code) => Verdict::Final(LoginError::Refused {
            code: presentable(code, sent),
            description: refusal
                .as_ref()
                .ok()
                .and_then(|it| it.error_description.as_ref())
                .map(|it| presentable(it, sent)),
        }),
        Err(_) if status == StatusCode::TOO_MANY_REQUESTS => Verdict::SlowDown,
        Err(_) if status.is_success() => match Grant::parse(body) {
            Ok(grant) => Verdict::Granted(grant),
            Err(error) => transient(error),
        },
        Err(_) => transient(Unusable::Status(status)),
    }
}

// === impl Login ===

impl Login {
    fn parse(body: &[u8]) -> Result<Self, Unusable> {
        /// RFC 8628 §3.2.
        #[derive(Deserialize)]
        struct Answer {
            device_code: String,
            user_code: String,
            // As some services wrote it before the RFC.
            #[serde(alias = "verification_url")]
            verification_uri: String,
            verification_uri_complete: Option<String>,
            expires_in: f64,
            interval: Option<f64>,
        }

        let answer: Answer = serde_json::from_slice(body).map_err(|_| Unusable::NotADevice)?;
        let seconds = |it| Duration::try_from_secs_f64(it).ok();
        let lifetime = seconds(answer.expires_in).ok_or(Unusable::NotADevice)?;
        let interval = answer.interval.and_then(seconds);
        Ok(Self {
            user_code: presentable(&answer.user_code, &[]),
            page: page(&answer.verification_uri).ok_or(Unusable::NotAPage)?,
            page_with_code: answer.verification_uri_complete.as_deref().and_then(page),
            expires: Instant::now() + lifetime.min(LONGEST_LIFE),
            device_code: answer.device_code.into(),
            interval: interval.unwrap_or(USUAL_INTERVAL).max(LEAST_INTERVAL),
        })
    }
}

/// RFC 8628 §3.2, where the server names none.
const USUAL_INTERVAL: Duration = Duration::from_secs(5);
/// A server that says 0 is not taken at its word.
const LEAST_INTERVAL: Duration = Duration::from_secs(1);
/// Keeps nonsense within what a clock can hold: a day.
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 3600);

/// A page for a browser, and nothing else that a program could be made to open.
fn page(text: &str) -> Option<Uri> {
    let page = text.parse::<Uri>().ok()?;
    let is_web = [&Scheme::HTTP, &Scheme::HTTPS].contains(&page.scheme()?);
    is_web.then_some(page)
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("page", &self.page)
            .field("interval", &self.interval)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
