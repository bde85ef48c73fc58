//! Who may talk: every check that needs only a request's head.
//!
//! A local port is open to every program and every web page on the machine. A page can name any
//! path and send some kinds of body, but it cannot choose `Host` (which gives a rebound name away),
//! cannot leave out `Origin`, and cannot send JSON without a preflight that nobody answers.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use http::{HeaderMap, Method, Request, StatusCode, header, request::Parts};
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;
use tower::{BoxError, filter::Predicate};

use super::{
    route::{HEALTHZ, READYZ},
    target,
    wire::{REFUSED_AS, Violation},
};
use crate::config::{Config, Listen};

/// Lets a request pass or says why not.
#[derive(Clone, Debug)]
pub(super) struct Guard(Arc<Rules>);

#[derive(Debug)]
struct Rules {
    hosts: Vec<String>,
    origins: Vec<String>,
    keys: Vec<SecretString>,
}

/// Why a request may not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Denied {
    #[error(
        "send pacegate's client key as the API key (Authorization: Bearer …); it is one of \
         client-keys in the config"
    )]
    ClientKey,
    #[error("POST needs content-type: application/json")]
    ContentType,
    #[error(
        "the Host header names a host that pacegate does not answer for; add it to allowed-hosts \
         if it is yours"
    )]
    Host,
    #[error("the request needs exactly one Host header")]
    HostMissing,
    #[error(transparent)]
    Malformed(Violation),
    #[error("CONNECT and TRACE are not offered: pacegate is not a forward proxy")]
    Method,
    #[error(
        "the Origin header names a web page that may not use pacegate; add it to allowed-origins \
         if it is yours"
    )]
    Origin,
    #[error("OPTIONS is not offered: no web page gets a preflight answered")]
    Preflight,
    #[error(
        "the request target must be a plain path: no empty, dot or encoded-slash segment, no \
         backslash, no other host"
    )]
    Target,
}

// === impl Denied ===

impl Denied {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::ClientKey => StatusCode::UNAUTHORIZED,
            Self::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Host | Self::Origin | Self::Preflight => StatusCode::FORBIDDEN,
            Self::HostMissing | Self::Target => StatusCode::BAD_REQUEST,
            Self::Malformed(violation) => violation.status(),
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
        }
    }

    pub(super) fn code(self) -> &'static str {
        match self {
            Self::ClientKey => "invalid_client_key",
            Self::ContentType => "unsupported_content_type",
            Self::Host => "host_not_allowed",
            Self::HostMissing => "host_missing",
            Self::Malformed(violation) => violation.code(),
            Self::Method => "method_not_allowed",
            Self::Origin => "origin_not_allowed",
            Self::Preflight => "preflight_not_allowed",
            Self::Target => "invalid_target",
        }
    }
}

// === impl Guard ===

impl Guard {
    pub(super) fn new(config: &Config) -> Self {
        let mut hosts = vec!["localhost".to_owned()];
        let unbracketed = |host: &String| host.trim_matches(['[', ']']).to_owned();
        hosts.extend(config.allowed_hosts.iter().map(unbracketed));
        if let Listen::Tcp(address) = config.listen
            && !address.ip().is_unspecified()
        {
            hosts.push(address.ip().to_string());
        }
        Self(Arc::new(Rules {
            hosts,
            origins: config.allowed_origins.clone(),
            keys: config.client_keys.clone(),
        }))
    }

    fn check(&self, head: &Parts) -> Result<(), Denied> {
        if let Some(which) = head.headers.get(REFUSED_AS) {
            let violation = Violation::from_stand_in(which.as_bytes());
            return Err(violation.map_or(Denied::Method, Denied::Malformed));
        }
        self.check_host(head)?;
        self.check_origin(&head.headers)?;
        check_method(&head.method)?;
        if !target::is_plain(&head.uri) {
            return Err(Denied::Target);
        }
        // A probe has no key and learns nothing.
        if !matches!(head.uri.path(), HEALTHZ | READYZ) {
            self.check_key(&head.headers)?;
        }
        if head.method == Method::POST && !is_json(&head.headers) {
            return Err(Denied::ContentType);
        }
        Ok(())
    }

    fn check_host(&self, head: &Parts) -> Result<(), Denied> {
        let mut hosts = head.headers.get_all(header::HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return Err(Denied::HostMissing);
        };
        if self.answers_for(host.as_bytes()) {
            Ok(())
        } else {
            Err(Denied::Host)
        }
    }

    /// Reads `Host` as what it should be and nothing more: a name or an address, perhaps a port.
    fn answers_for(&self, host: &[u8]) -> bool {
        let Ok(host) = str::from_utf8(host) else {
            return false;
        };
        let (name, rest) = match host.strip_prefix('[') {
            None => host.split_at(host.find(':').unwrap_or(host.len())),
            Some(inner) => match inner.split_once(']') {
                Some((address, rest)) if address.parse::<Ipv6Addr>().is_ok() => (address, rest),
                _ => return false,
            },
        };
        if !(rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port)) {
            return false;
        }
        if let Ok(address) = name.parse::<IpAddr>() {
            // An IPv6 address without brackets was cut at its first colon, and is none here.
            return address.is_loopback() || self.lists(name);
        }
        self.lists(name)
    }

    fn lists(&self, name: &str) -> bool {
        let mut hosts = self.0.hosts.iter();
        hosts.any(|known| known.eq_ignore_ascii_case(name))
    }

    fn check_origin(&self, headers: &HeaderMap) -> Result<(), Denied> {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (None, _) => {}
            (Some(origin), None) if self.is_listed(origin.as_bytes()) => return Ok(()),
            _ => return Err(Denied::Origin),
        }
        // A browser's word on who asks, in requests that carry no Origin. A page of ours does not
        // exist, but neither does another one that could say it were.
        let mut sites = headers.get_all("sec-fetch-site").iter();
        if sites.all(|site| matches!(site.as_bytes(), b"none" | b"same-origin")) {
            Ok(())
        } else {
            Err(Denied::Origin)
        }
    }

    fn is_listed(&self, origin: &[u8]) -> bool {
        let mut origins = self.0.origins.iter();
        origins.any(|known| known.as_bytes() == origin)
    }

    fn check_key(&self, headers: &HeaderMap) -> Result<(), Denied> {
        if self.0.keys.is_empty() {
            return Ok(());
        }
        let bearer = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.as_bytes().split_first_chunk::<7>())
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "))
            .map(|(_, key)| key);
        let sent = bearer.or_else(|| headers.get("x-api-key").map(|value| value.as_bytes()));
        let sent = sent.ok_or(Denied::ClientKey)?;
        // Compares with all of them in constant time, so that the time says nothing.
        let matches = self.0.keys.iter().fold(0, |found, key| {
            found | key.expose_secret().as_bytes().ct_eq(sent).unwrap_u8()
        });
        if matches == 1 {
            Ok(())
        } else {
            Err(Denied::ClientKey)
        }
    }
}

impl<B> Predicate<Request<B>> for Guard {
    type Request = Request<B>;

    fn check(&mut self, request: Request<B>) -> Result<Request<B>, BoxError> {
        let (mut head, body) = request.into_parts();
        Guard::check(self, &head)?;
        if !self.0.keys.is_empty() {
            // Ours, and nobody else's business.
            head.headers.remove(header::AUTHORIZATION);
            head.headers.remove("x-api-key");
        }
        Ok(Request::from_parts(head, body))
    }
}

fn is_port(digits: &str) -> bool {
    digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse::<u16>().is_ok()
}

/// Any but those for proxies and, in a browser's hands, for asking what a web page may do.
fn check_method(method: &Method) -> Result<(), Denied> {
    match *method {
        Method::CONNECT | Method::TRACE => Err(Denied::Method),
        Method::OPTIONS => Err(Denied::Preflight),
        _ => Ok(()),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let mut kinds = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(kind), None) = (kinds.next(), kinds.next()) else {
        return false;
    };
    kind.to_str()
        .ok()
        .and_then(|value| value.split(';').next())
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard() -> Guard {
        Guard(Arc::new(Rules {
            hosts: vec!["localhost".into(), "pacegate.internal".into()],
            origins: vec!["https://ok.example".into()],
            keys: Vec::new(),
        }))
    }

    fn check(guard: &Guard, method: &str, uri: &str, fields: &[(&str, &str)]) -> Option<Denied> {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        guard.check(&head).err()
    }

    #[test]
    fn passes_exactly_the_hosts_it_answers_for() {
        for (host, passes) in [
            ("localhost", true),
            ("LOCALHOST:7223", true),
            ("127.0.0.1:7223", true),
            ("127.8.9.1", true),
            ("[::1]:7223", true),
            ("pacegate.internal:80", true),
            ("evil.example", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.nip.io", false),
            ("evil.example@localhost", false),
            ("localhost@evil.example", false),
            ("192.168.1.2", false),
            ("0.0.0.0", false),
            ("[::2]", false),
            ("local host", false),
            ("", false),
        ] {
            let denied = check(&guard(), "GET", "/v1/models", &[("host", host)]);
            assert_eq!(denied.is_none(), passes, "{host}: {denied:?}");
        }
        assert_eq!(check(&guard(), "GET", "/", &[]), Some(Denied::HostMissing));
        let twice = [("host", "localhost"), ("host", "localhost")];
        assert_eq!(
            check(&guard(), "GET", "/", &twice),
            Some(Denied::HostMissing)
        );
    }

    #[test]
    fn a_web_page_passes_only_if_it_is_listed() {
        let ask = |fields: &[(&str, &str)]| {
            let fields = [&[("host", "localhost")], fields].concat();
            check(&guard(), "GET", "/v1/models", &fields)
        };
        assert_eq!(ask(&[]), None);
        assert_eq!(ask(&[("origin", "https://ok.example")]), None);
        assert_eq!(
            ask(&[
                ("origin", "https://ok.example"),
                ("sec-fetch-site", "cross-site")
            ]),
            None
        );
        assert_eq!(
            ask(&[("sec-fetch-mode", "cors")]),
            None,
            "Node's fetch sends it"
        );
        for origin in [
            "null",
            "http://localhost:3000",
            "https://ok.example.evil",
            "",
        ] {
            assert_eq!(ask(&[("origin", origin)]), Some(Denied::Origin), "{origin}");
        }
        assert_eq!(
            ask(&[("sec-fetch-site", "cross-site")]),
            Some(Denied::Origin)
        );
    }

    #[test]
    fn post_needs_json() {
        let ask = |kind| {
            let fields = [("host", "localhost"), ("content-type", kind)];
            check(&guard(), "POST", "/v1/chat/completions", &fields)
        };
        assert_eq!(ask("application/json"), None);
        assert_eq!(ask("Application/JSON; charset=utf-8"), None);
        assert_eq!(ask("text/plain"), Some(Denied::ContentType));
        assert_eq!(
            ask("application/json-patch+json"),
            Some(Denied::ContentType)
        );
    }

    #[test]
    fn a_client_key_is_asked_for_wherever_one_is_set_but_not_for_a_probe() {
        let key = "0123456789abcdef0123456789abcdef";
        let guard = Guard(Arc::new(Rules {
            hosts: vec!["localhost".into()],
            origins: Vec::new(),
            keys: vec![key.to_owned().into()],
        }));
        let ask = |path, fields: &[(&str, &str)]| {
            check(
                &guard,
                "GET",
                path,
                &[&[("host", "localhost")], fields].concat(),
            )
        };
        let bearer = format!("Bearer {key}");
        assert_eq!(ask("/v1/models", &[("authorization", &bearer)]), None);
        assert_eq!(ask("/v1/models", &[("x-api-key", key)]), None);
        assert_eq!(ask(HEALTHZ, &[]), None);
        for wrong in ["Bearer ", "Bearer 0123", "Basic x", key] {
            let denied = ask("/v1/models", &[("authorization", wrong)]);
            assert_eq!(denied, Some(Denied::ClientKey), "{wrong}");
        }
    }
}
