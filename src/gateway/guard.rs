//! Who may talk: every check that needs only a request's head.
//!
//! A local port is open to every program and every web page on the machine. A page can name any
//! path and send some kinds of body, but it cannot choose `Host` (which gives a rebound name away),
//! cannot leave out `Origin`, and cannot send JSON without a preflight that nobody answers.

use std::{net::IpAddr, sync::Arc};

use http::{HeaderMap, Method, Request, StatusCode, header, request::Parts, uri::Authority};
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;
use tower::{BoxError, filter::Predicate};

use super::route::{HEALTHZ, READYZ};
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
    #[error("CONNECT is not offered: pacegate is not a forward proxy")]
    Method,
    #[error(
        "the Origin header names a web page that may not use pacegate; add it to allowed-origins \
         if it is yours"
    )]
    Origin,
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
            Self::Host | Self::Origin => StatusCode::FORBIDDEN,
            Self::HostMissing | Self::Target => StatusCode::BAD_REQUEST,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
        }
    }

    pub(super) fn code(self) -> &'static str {
        match self {
            Self::ClientKey => "invalid_client_key",
            Self::ContentType => "unsupported_content_type",
            Self::Host => "host_not_allowed",
            Self::HostMissing => "host_missing",
            Self::Method => "method_not_allowed",
            Self::Origin => "origin_not_allowed",
            Self::Target => "invalid_target",
        }
    }
}

// === impl Guard ===

impl Guard {
    pub(super) fn new(config: &Config) -> Self {
        let mut hosts = vec!["localhost".to_owned()];
        hosts.extend(
            config
                .allowed_hosts
                .iter()
                .map(|host| host.to_ascii_lowercase()),
        );
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
        if head.method == Method::CONNECT {
            return Err(Denied::Method);
        }
        self.check_host(head)?;
        self.check_origin(&head.headers)?;
        check_target(head)?;
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
        let host: Authority = host
            .to_str()
            .ok()
            .and_then(|host| host.parse().ok())
            .ok_or(Denied::Host)?;
        if !self.answers_for(&host) {
            return Err(Denied::Host);
        }
        // Absolute form: RFC 9112 §3.2.2 lets it win over Host, so it has to pass as well.
        match head.uri.authority() {
            Some(authority) if !self.answers_for(authority) => Err(Denied::Target),
            _ => Ok(()),
        }
    }

    fn answers_for(&self, authority: &Authority) -> bool {
        if authority.as_str().contains('@') {
            return false;
        }
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']');
        let loopback = host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        loopback
            || self
                .0
                .hosts
                .iter()
                .any(|known| known.eq_ignore_ascii_case(host))
    }

    fn check_origin(&self, headers: &HeaderMap) -> Result<(), Denied> {
        let listed = |origin: &[u8]| {
            self.0
                .origins
                .iter()
                .any(|known| known.as_bytes() == origin)
        };
        let mut origins = headers.get_all(header::ORIGIN).iter();
        if !origins.all(|origin| listed(origin.as_bytes())) {
            return Err(Denied::Origin);
        }
        // A browser's word that another page asks, on requests that carry no Origin.
        let site = headers.get("sec-fetch-site").map(|site| site.as_bytes());
        let other_page = matches!(site, Some(b"cross-site" | b"same-site"));
        if other_page && !headers.contains_key(header::ORIGIN) {
            return Err(Denied::Origin);
        }
        Ok(())
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

/// Refuses whatever an upstream might read as another path than we do.
fn check_target(head: &Parts) -> Result<(), Denied> {
    let path = head.uri.path();
    let lower = path.to_ascii_lowercase();
    let plain = path.starts_with('/')
        && !["%2f", "%5c", "\\"].iter().any(|part| lower.contains(part))
        && path
            .split('/')
            .enumerate()
            .all(|(index, segment)| index == 0 || !segment.is_empty() || is_last(path, index))
        && !lower
            .replace("%2e", ".")
            .split('/')
            .any(|s| matches!(s, "." | ".."));
    if plain { Ok(()) } else { Err(Denied::Target) }
}

/// A trailing slash makes an empty last segment, and that one is harmless.
fn is_last(path: &str, index: usize) -> bool {
    path.split('/').count() == index + 1
}

fn is_json(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
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
    fn a_target_that_can_be_read_two_ways_is_refused() {
        let host = [("host", "localhost")];
        for target in [
            "/v1/../admin",
            "/v1/./x",
            "/v1/%2e%2e/x",
            "/v1/%2E./x",
            "/v1/a%2fb",
            "/v1/a%5Cb",
            "/v1//x",
            "/u/n//v1/x",
        ] {
            let denied = check(&guard(), "GET", target, &host);
            assert_eq!(denied, Some(Denied::Target), "{target}");
        }
        for target in ["/v1/models", "/v1/x/", "/v1/a.b", "/v1/..a", "/v1/x?y=../z"] {
            assert_eq!(check(&guard(), "GET", target, &host), None, "{target}");
        }
        let denied = check(&guard(), "GET", "http://evil.example/v1/models", &host);
        assert_eq!(denied, Some(Denied::Target));
        assert_eq!(
            check(&guard(), "GET", "http://localhost/v1/models", &host),
            None
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
