//! The OAuth endpoints: a device grant (RFC 8628) with PKCE (RFC 7636), and refresh.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    str::FromStr,
    time::Duration,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use clap::ValueEnum;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use uuid::Uuid;

/// How the OAuth endpoints behave.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// Lifetime of an access token, also sent as `expires_in` (in whole seconds).
    pub token_lifetime: Duration,
    /// Lifetime of a device code.
    pub device_lifetime: Duration,
    /// `interval` of a device response; a client that polls more often is not refused.
    pub interval: Duration,
    /// Responses to the polls for a device code before it is granted, in order.
    pub device_answers: Vec<DeviceAnswer>,
    /// The status of `slow_down`: 400 by the RFC, 429 with some providers.
    pub slow_down_status: u16,
    /// A refresh token works once. (A new one is issued in either case.)
    pub refresh_once: bool,
    /// Faults of token refreshes, in order, one for each.
    pub refresh_faults: Vec<RefreshFault>,
    /// A refresh token that is valid from the start.
    pub refresh_token: Option<String>,
    /// `resource_url` of a token response.
    pub resource_url: Option<String>,
}

/// The response to a device that polls for its token.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum DeviceAnswer {
    /// A 200 whose body is half a document.
    BadJson,
    /// The person said no.
    Denied,
    /// The code is too old.
    Expired,
    /// A 500.
    Failure,
    /// The person has not decided yet.
    Pending,
    /// Ask less often.
    SlowDown,
}

/// A fault of a token refresh.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RefreshFault {
    /// A 200 with truncated JSON.
    BadJson,
    /// The regular response, this much later. The token is used at once.
    Delay(Duration),
    /// A 500.
    Failure,
    /// A 400 `invalid_grant`.
    InvalidGrant,
}

/// A pair of tokens.
#[derive(Clone, Debug)]
pub struct TokenPair {
    /// For `Authorization: Bearer`.
    pub access_token: String,
    /// For the refresh grant.
    pub refresh_token: String,
}

/// A response of the device or token endpoint.
#[derive(Debug)]
pub(super) struct OAuthResponse {
    pub(super) status: u16,
    pub(super) body: String,
    pub(super) delay: Duration,
}

/// Issues tokens and remembers those that are valid.
#[derive(Debug)]
pub(super) struct Issuer {
    /// Access tokens: when each was issued, and its lifetime.
    access: HashMap<String, (Instant, Duration)>,
    behaviour: Behaviour,
    devices: HashMap<String, Device>,
    refresh: HashSet<String>,
    refresh_faults: VecDeque<RefreshFault>,
}

#[derive(Debug)]
struct Device {
    answers: VecDeque<DeviceAnswer>,
    challenge: String,
    issued: Instant,
}

/// RFC 8628, section 3.4.
const DEVICE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

// === impl Behaviour ===

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            token_lifetime: Duration::from_secs(3600),
            device_lifetime: Duration::from_secs(900),
            interval: Duration::from_secs(5),
            device_answers: Vec::new(),
            slow_down_status: 400,
            refresh_once: false,
            refresh_faults: Vec::new(),
            refresh_token: None,
            resource_url: None,
        }
    }
}

// === impl RefreshFault ===

impl FromStr for RefreshFault {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "bad-json" => Ok(Self::BadJson),
            "failure" => Ok(Self::Failure),
            "invalid-grant" => Ok(Self::InvalidGrant),
            _ => text
                .strip_prefix("delay=")
                .and_then(|delay| humantime::parse_duration(delay).ok())
                .map(Self::Delay)
                .ok_or("expected bad-json, failure, invalid-grant or delay=TIME"),
        }
    }
}

// === impl Issuer ===

impl Issuer {
    pub(super) fn new(behaviour: Behaviour) -> Self {
        Self {
            access: HashMap::new(),
            devices: HashMap::new(),
            refresh: behaviour.refresh_token.iter().cloned().collect(),
            refresh_faults: behaviour.refresh_faults.iter().copied().collect(),
            behaviour,
        }
    }

    pub(super) fn push_refresh_fault(&mut self, fault: RefreshFault) {
        self.refresh_faults.push_back(fault);
    }

    pub(super) fn set_token_lifetime(&mut self, lifetime: Duration) {
        self.behaviour.token_lifetime = lifetime;
    }

    pub(super) fn revoke_access_tokens(&mut self) {
        self.access.clear();
    }

    /// Issues a pair.
    pub(super) fn issue(&mut self, now: Instant) -> TokenPair {
        let pair = TokenPair {
            access_token: format!("sim-access-{}", Uuid::new_v4()),
            refresh_token: format!("sim-refresh-{}", Uuid::new_v4()),
        };
        let life = (now, self.behaviour.token_lifetime);
        self.access.insert(pair.access_token.clone(), life);
        self.refresh.insert(pair.refresh_token.clone());
        pair
    }

    /// Handles `POST …/device/code`.
    pub(super) fn device(&mut self, form: &[u8], origin: &str, now: Instant) -> OAuthResponse {
        let form = parse_form(form);
        let field = |name: &str| form.get(name).filter(|value| !value.is_empty());
        let (Some(_client), Some(challenge)) = (field("client_id"), field("code_challenge")) else {
            return OAuthResponse::error(400, "invalid_request");
        };
        if field("code_challenge_method").is_none_or(|method| method != "S256") {
            return OAuthResponse::error(400, "invalid_request");
        }
        let code = Uuid::new_v4().to_string();
        let device = Device {
            answers: self.behaviour.device_answers.iter().copied().collect(),
            challenge: challenge.clone(),
            issued: now,
        };
        self.devices.insert(code.clone(), device);
        let user_code = code.get(..8).unwrap_or_default().to_uppercase();
        OAuthResponse::ok(&json!({
            "verification_uri": format!("{origin}/authorize"),
            "verification_uri_complete": format!("{origin}/authorize?user_code={user_code}"),
            "user_code": user_code,
            "device_code": code,
            "expires_in": self.behaviour.device_lifetime.as_secs(),
            "interval": self.behaviour.interval.as_secs(),
        }))
    }

    /// Handles `POST …/token`.
    pub(super) fn token(&mut self, form: &[u8], now: Instant) -> OAuthResponse {
        let form = parse_form(form);
        let field = |name| form.get(name).map_or("", String::as_str);
        match field("grant_type") {
            DEVICE_GRANT => self.poll(field("device_code"), field("code_verifier"), now),
            "refresh_token" => self.refresh(field("refresh_token"), now),
            _ => OAuthResponse::error(400, "unsupported_grant_type"),
        }
    }

    /// Whether an access token is valid.
    pub(super) fn accepts(&self, access_token: &str, now: Instant) -> bool {
        self.access
            .get(access_token)
            .is_some_and(|(issued, lifetime)| now.duration_since(*issued) < *lifetime)
    }

    fn poll(&mut self, code: &str, verifier: &str, now: Instant) -> OAuthResponse {
        let Some(device) = self.devices.get_mut(code) else {
            return OAuthResponse::error(400, "invalid_grant");
        };
        if now.duration_since(device.issued) >= self.behaviour.device_lifetime {
            return OAuthResponse::error(400, "expired_token");
        }
        match device.answers.pop_front() {
            Some(DeviceAnswer::BadJson) => return OAuthResponse::truncated(),
            Some(DeviceAnswer::Failure) => return OAuthResponse::error(500, "server_error"),
            Some(DeviceAnswer::Denied) => return OAuthResponse::error(400, "access_denied"),
            Some(DeviceAnswer::Expired) => return OAuthResponse::error(400, "expired_token"),
            Some(DeviceAnswer::Pending) => {
                return OAuthResponse::error(400, "authorization_pending");
            }
            Some(DeviceAnswer::SlowDown) => {
                return OAuthResponse::error(self.behaviour.slow_down_status, "slow_down");
            }
            None => {}
        }
        if BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(verifier)) != device.challenge {
            return OAuthResponse::error(400, "invalid_grant");
        }
        self.devices.remove(code);
        self.grant_tokens(now)
    }

    fn refresh(&mut self, token: &str, now: Instant) -> OAuthResponse {
        let fault = self.refresh_faults.pop_front();
        match fault {
            Some(RefreshFault::BadJson) => return OAuthResponse::truncated(),
            Some(RefreshFault::Failure) => return OAuthResponse::error(500, "server_error"),
            Some(RefreshFault::InvalidGrant) => return OAuthResponse::error(400, "invalid_grant"),
            Some(RefreshFault::Delay(_)) | None => {}
        }
        if !self.refresh.contains(token) {
            return OAuthResponse::error(400, "invalid_grant");
        }
        if self.behaviour.refresh_once {
            self.refresh.remove(token);
        }
        let mut response = self.grant_tokens(now);
        if let Some(RefreshFault::Delay(delay)) = fault {
            response.delay = delay;
        }
        response
    }

    fn grant_tokens(&mut self, now: Instant) -> OAuthResponse {
        let pair = self.issue(now);
        let mut body = json!({
            "access_token": pair.access_token,
            "refresh_token": pair.refresh_token,
            "token_type": "Bearer",
            "expires_in": self.behaviour.token_lifetime.as_secs(),
        });
        if let Some(url) = &self.behaviour.resource_url {
            body["resource_url"] = url.as_str().into();
        }
        OAuthResponse::ok(&body)
    }
}

// === impl OAuthResponse ===

impl OAuthResponse {
    fn ok(body: &Value) -> Self {
        Self {
            status: 200,
            body: body.to_string(),
            delay: Duration::ZERO,
        }
    }

    /// A token response that breaks off.
    fn truncated() -> Self {
        Self {
            status: 200,
            body: r#"{"access_token":"sim-acc"#.to_owned(),
            delay: Duration::ZERO,
        }
    }

    /// RFC 6749, section 5.2.
    fn error(status: u16, code: &str) -> Self {
        let body = json!({ "error": code, "error_description": format!("simulated {code}") });
        Self {
            status,
            body: body.to_string(),
            delay: Duration::ZERO,
        }
    }
}

/// Decodes `application/x-www-form-urlencoded`; malformed escapes stay as they are.
fn parse_form(form: &[u8]) -> HashMap<String, String> {
    let form = String::from_utf8_lossy(form);
    let pairs = form.split('&').map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    });
    pairs.collect()
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        let escaped = tail
            .get(..2)
            .filter(|_| *first == b'%')
            .and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok());
        match (escaped, first) {
            (Some(byte), _) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            (None, b'+') => bytes.push(b' '),
            (None, byte) => bytes.push(*byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
