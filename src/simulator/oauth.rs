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
    /// How long an access token works, and what `expires_in` says (in whole seconds).
    pub token_lifetime: Duration,
    /// How long a device code may be asked about.
    pub device_lifetime: Duration,
    /// What the device answer gives as `interval`; a client that asks sooner is not punished.
    pub interval: Duration,
    /// What a device code is told before it is granted, one for each ask.
    pub device_answers: Vec<DeviceAnswer>,
    /// The status of `slow_down`: 400 in the RFC, 429 in the wild.
    pub slow_down_status: u16,
    /// A spent refresh token is refused from then on. (A new one is issued in either case.)
    pub refresh_once: bool,
    /// What goes wrong with refreshes, one for each.
    pub refresh_faults: Vec<RefreshFault>,
    /// A refresh token that works from the start.
    pub refresh_token: Option<String>,
    /// `resource_url` of a token answer.
    pub resource_url: Option<String>,
}

/// An answer to a device that asks for its token.
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

/// What goes wrong with a refresh.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RefreshFault {
    /// A 200 whose body is half a document.
    BadJson,
    /// The right answer, this much later. The token is spent at once.
    Delay(Duration),
    /// A 500.
    Failure,
    /// A 400 `invalid_grant`.
    InvalidGrant,
}

/// A pair of tokens.
#[derive(Clone, Debug)]
pub struct Grant {
    /// Works for `Authorization: Bearer`.
    pub access_token: String,
    /// Works for the refresh grant.
    pub refresh_token: String,
}

/// An answer of the token endpoint.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
    pub(super) delay: Duration,
}

/// Who has been issued what.
#[derive(Debug)]
pub(super) struct Issuer {
    /// When each was issued, and how long it lives.
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
    pub(super) fn issue(&mut self, now: Instant) -> Grant {
        let grant = Grant {
            access_token: format!("sim-access-{}", Uuid::new_v4()),
            refresh_token: format!("sim-refresh-{}", Uuid::new_v4()),
        };
        let life = (now, self.behaviour.token_lifetime);
        self.access.insert(grant.access_token.clone(), life);
        self.refresh.insert(grant.refresh_token.clone());
        grant
    }

    /// Answers `POST …/device/code`.
    pub(super) fn device(&mut self, form: &[u8], origin: &str, now: Instant) -> Answer {
        let form = parse_form(form);
        let field = |name: &str| form.get(name).filter(|value| !value.is_empty());
        let (Some(_client), Some(challenge)) = (field("client_id"), field("code_challenge")) else {
            return Answer::error(400, "invalid_request");
        };
        if field("code_challenge_method").is_none_or(|method| method != "S256") {
            return Answer::error(400, "invalid_request");
        }
        let code = Uuid::new_v4().to_string();
        let device = Device {
            answers: self.behaviour.device_answers.iter().copied().collect(),
            challenge: challenge.clone(),
            issued: now,
        };
        self.devices.insert(code.clone(), device);
        let user_code = code.get(..8).unwrap_or_default().to_uppercase();
        Answer::ok(&json!({
            "verification_uri": format!("{origin}/authorize"),
            "verification_uri_complete": format!("{origin}/authorize?user_code={user_code}"),
            "user_code": user_code,
            "device_code": code,
            "expires_in": self.behaviour.device_lifetime.as_secs(),
            "interval": self.behaviour.interval.as_secs(),
        }))
    }

    /// Answers `POST …/token`.
    pub(super) fn token(&mut self, form: &[u8], now: Instant) -> Answer {
        let form = parse_form(form);
        let field = |name| form.get(name).map_or("", String::as_str);
        match field("grant_type") {
            DEVICE_GRANT => self.poll(field("device_code"), field("code_verifier"), now),
            "refresh_token" => self.refresh(field("refresh_token"), now),
            _ => Answer::error(400, "unsupported_grant_type"),
        }
    }

    /// Whether an access token works.
    pub(super) fn accepts(&self, access_token: &str, now: Instant) -> bool {
        self.access
            .get(access_token)
            .is_some_and(|(issued, lifetime)| now.duration_since(*issued) < *lifetime)
    }

    fn poll(&mut self, code: &str, verifier: &str, now: Instant) -> Answer {
        let Some(device) = self.devices.get_mut(code) else {
            return Answer::error(400, "invalid_grant");
        };
        if now.duration_since(device.issued) >= self.behaviour.device_lifetime {
            return Answer::error(400, "expired_token");
        }
        match device.answers.pop_front() {
            Some(DeviceAnswer::BadJson) => return Answer::half(),
            Some(DeviceAnswer::Failure) => return Answer::error(500, "server_error"),
            Some(DeviceAnswer::Denied) => return Answer::error(400, "access_denied"),
            Some(DeviceAnswer::Expired) => return Answer::error(400, "expired_token"),
            Some(DeviceAnswer::Pending) => return Answer::error(400, "authorization_pending"),
            Some(DeviceAnswer::SlowDown) => {
                return Answer::error(self.behaviour.slow_down_status, "slow_down");
            }
            None => {}
        }
        if BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(verifier)) != device.challenge {
            return Answer::error(400, "invalid_grant");
        }
        self.devices.remove(code);
        self.grant(now)
    }

    fn refresh(&mut self, token: &str, now: Instant) -> Answer {
        let fault = self.refresh_faults.pop_front();
        match fault {
            Some(RefreshFault::BadJson) => return Answer::half(),
            Some(RefreshFault::Failure) => return Answer::error(500, "server_error"),
            Some(RefreshFault::InvalidGrant) => return Answer::error(400, "invalid_grant"),
            Some(RefreshFault::Delay(_)) | None => {}
        }
        if !self.refresh.contains(token) {
            return Answer::error(400, "invalid_grant");
        }
        if self.behaviour.refresh_once {
            self.refresh.remove(token);
        }
        let mut answer = self.grant(now);
        if let Some(RefreshFault::Delay(delay)) = fault {
            answer.delay = delay;
        }
        answer
    }

    fn grant(&mut self, now: Instant) -> Answer {
        let grant = self.issue(now);
        let mut body = json!({
            "access_token": grant.access_token,
            "refresh_token": grant.refresh_token,
            "token_type": "Bearer",
            "expires_in": self.behaviour.token_lifetime.as_secs(),
        });
        if let Some(url) = &self.behaviour.resource_url {
            body["resource_url"] = url.as_str().into();
        }
        Answer::ok(&body)
    }
}

// === impl Answer ===

impl Answer {
    fn ok(body: &Value) -> Self {
        Self {
            status: 200,
            body: body.to_string(),
            delay: Duration::ZERO,
        }
    }

    /// A token that broke off.
    fn half() -> Self {
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

/// Decodes `application/x-www-form-urlencoded`; what is malformed stays as it is.
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
