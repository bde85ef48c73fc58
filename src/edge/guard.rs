//! Which requests may pass: every check that needs only the request head.
//!
//! A local port is open to every program and every web page on the machine. A page can name any
//! path and send some kinds of body. But it cannot choose `Host`, which reveals DNS rebinding; it
//! cannot omit `Origin`; and it cannot send JSON without a preflight, which is always refused.

use std::{
    future::Future,
    net::{IpAddr, Ipv6Addr},
    pin::Pin,
    str::FromStr,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, header};
use pacegate_layers::error::BoxError;
use pin_project_lite::pin_project;
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;
use tower::{Layer, Service};
use uuid::fmt::Hyphenated;

mod rejected;

pub(super) use self::rejected::Rejected;

use crate::{
    body::Body,
    config::{Config, Limits, Listen},
    routes::is_probe,
};

const JSON: &str = "application/json";
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Applies [`Guard`].
#[derive(Clone, Debug)]
pub(super) struct GuardLayer(Arc<AccessRules>);

/// Passes a request or rejects it.
#[derive(Clone, Debug)]
pub(super) struct Guard<S> {
    inner: S,
    rules: Arc<AccessRules>,
}

pin_project! {
    #[project = Projected]
    pub(super) enum ResponseFuture<F> {
        Rejected {
            rejected: Rejected,
        },
        Passed {
            #[pin]
            inner: F,
        },
    }
}

#[derive(Debug)]
struct AccessRules {
    hosts: Vec<String>,
    origins: Vec<String>,
    keys: Vec<SecretString>,
    limits: Limits,
}

// === impl GuardLayer ===

impl GuardLayer {
    pub(super) fn new(config: &Config) -> Self {
        let mut hosts = vec!["localhost".to_owned()];
        let unbracketed = |host: &String| host.trim_matches(['[', ']']).to_owned();
        hosts.extend(config.allowed_hosts.iter().map(unbracketed));
        if let Listen::Tcp(address) = config.listen
            && !address.ip().is_unspecified()
        {
            hosts.push(address.ip().to_string());
        }
        Self(Arc::new(AccessRules {
            hosts,
            origins: config.allowed_origins.clone(),
            keys: config.client_keys.clone(),
            limits: config.limits.clone(),
        }))
    }
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Guard {
            inner,
            rules: Arc::clone(&self.0),
        }
    }
}

// === impl Guard ===

impl<S, B> Service<Request<B>> for Guard<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = BoxError>,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if let Err(rejected) = self.rules.check(&request) {
            return ResponseFuture::Rejected { rejected };
        }
        if !self.rules.keys.is_empty() {
            // The client key is for pacegate alone.
            request.headers_mut().remove(header::AUTHORIZATION);
            request.headers_mut().remove(X_API_KEY);
        }
        let inner = self.inner.call(request);
        ResponseFuture::Passed { inner }
    }
}

// === impl ResponseFuture ===

impl<F> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<Body>, BoxError>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            Projected::Rejected { rejected } => Poll::Ready(Err((*rejected).into())),
            Projected::Passed { inner } => inner.poll(cx),
        }
    }
}

// === impl AccessRules ===

impl AccessRules {
    fn check<B>(&self, request: &Request<B>) -> Result<(), Rejected> {
        let headers = request.headers();
        self.check_sizes(request.uri(), headers)?;
        check_framing(headers)?;
        self.check_host(headers)?;
        self.check_origin(headers)?;
        check_method(request.method())?;
        if !is_plain(request.uri()) {
            return Err(Rejected::Target);
        }
        // A probe has no key and learns nothing.
        if !is_probe(request.uri().path()) {
            self.check_key(headers)?;
        }
        if *request.method() == Method::POST && !is_json(headers) {
            return Err(Rejected::ContentType);
        }
        Ok(())
    }

    fn check_sizes(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Rejected> {
        let target = uri
            .path_and_query()
            .map_or(0, |target| target.as_str().len());
        if target > self.limits.max_target {
            return Err(Rejected::TargetTooLong);
        }
        // The edge adds `x-request-id` if it is missing, so one of at most a UUID's length is not
        // counted.
        let is_id = |name: &HeaderName, value: &HeaderValue| {
            name == X_REQUEST_ID && value.len() <= Hyphenated::LENGTH
        };
        let sent = || headers.iter().filter(|(name, value)| !is_id(name, value));
        let size = sent()
            .map(|(name, value)| name.as_str().len() + ": ".len() + value.len() + "\r\n".len());
        if sent().count() > self.limits.max_header_fields
            || size.sum::<usize>() > self.limits.max_header_size
        {
            return Err(Rejected::HeadTooLarge);
        }
        Ok(())
    }

    fn check_host(&self, headers: &HeaderMap) -> Result<(), Rejected> {
        let mut hosts = headers.get_all(header::HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return Err(Rejected::HostMissing);
        };
        if self.is_allowed_host(host.as_bytes()) {
            Ok(())
        } else {
            Err(Rejected::Host)
        }
    }

    /// Accepts a `Host` that is a name or an address, perhaps with a port, and nothing more.
    fn is_allowed_host(&self, host: &[u8]) -> bool {
        let (name, rest) = match host.strip_prefix(b"[") {
            None => host.split_at(position(host, b':').unwrap_or(host.len())),
            Some(inner) => match position(inner, b']') {
                Some(end) if parsed::<Ipv6Addr>(&inner[..end]).is_some() => {
                    (&inner[..end], &inner[end + 1..])
                }
                _ => return false,
            },
        };
        if !(rest.is_empty() || rest.strip_prefix(b":").is_some_and(is_port)) {
            return false;
        }
        // An IPv6 address without brackets was cut at its first colon, so it parses as none.
        self.is_listed_host(name)
            || parsed::<IpAddr>(name).is_some_and(|address| address.is_loopback())
    }

    fn is_listed_host(&self, name: &[u8]) -> bool {
        let mut hosts = self.hosts.iter();
        hosts.any(|known| known.as_bytes().eq_ignore_ascii_case(name))
    }

    fn check_origin(&self, headers: &HeaderMap) -> Result<(), Rejected> {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (None, _) => {}
            (Some(origin), None) if self.is_listed_origin(origin.as_bytes()) => return Ok(()),
            _ => return Err(Rejected::Origin),
        }
        // The browser states who asks also in requests without `Origin`. pacegate has no page of
        // its own, but no other page can pretend to be one.
        let mut sites = headers.get_all(SEC_FETCH_SITE).iter();
        if sites.all(|site| matches!(site.as_bytes(), b"none" | b"same-origin")) {
            Ok(())
        } else {
            Err(Rejected::Origin)
        }
    }

    fn is_listed_origin(&self, origin: &[u8]) -> bool {
        let mut origins = self.origins.iter();
        origins.any(|known| known.as_bytes() == origin)
    }

    fn check_key(&self, headers: &HeaderMap) -> Result<(), Rejected> {
        if self.keys.is_empty() {
            return Ok(());
        }
        let bearer = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.as_bytes().split_first_chunk::<7>())
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "))
            .map(|(_, key)| key);
        let sent = bearer.or_else(|| headers.get(X_API_KEY).map(|value| value.as_bytes()));
        let sent = sent.ok_or(Rejected::ClientKey)?;
        // Compares with all keys in constant time, so that the time reveals nothing.
        let matches = self.keys.iter().fold(0, |found, key| {
            found | key.expose_secret().as_bytes().ct_eq(sent).unwrap_u8()
        });
        if matches == 1 {
            Ok(())
        } else {
            Err(Rejected::ClientKey)
        }
    }
}

fn position(text: &[u8], byte: u8) -> Option<usize> {
    text.iter().position(|it| *it == byte)
}

fn parsed<T: FromStr>(text: &[u8]) -> Option<T> {
    str::from_utf8(text).ok()?.parse().ok()
}

fn is_port(digits: &[u8]) -> bool {
    digits.iter().all(u8::is_ascii_digit) && parsed::<u16>(digits).is_some()
}

/// Rejects a request that still has two framings. hyper has already chosen one, and the body that
/// goes upstream gets a length of its own, so this only informs the client.
fn check_framing(headers: &HeaderMap) -> Result<(), Rejected> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let is_unambiguous = match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => {
            coding.as_bytes().eq_ignore_ascii_case(b"chunked")
                && !headers.contains_key(header::CONTENT_LENGTH)
        }
        (Some(_), Some(_)) => false,
    };
    // Some servers read an underscore as a hyphen.
    let twins = ["content_length", "transfer_encoding"];
    if is_unambiguous && !twins.iter().any(|twin| headers.contains_key(*twin)) {
        Ok(())
    } else {
        Err(Rejected::Framing)
    }
}

/// Rejects the methods of proxies, and preflights.
fn check_method(method: &Method) -> Result<(), Rejected> {
    match *method {
        Method::CONNECT | Method::TRACE => Err(Rejected::Method),
        Method::OPTIONS => Err(Rejected::Preflight),
        // Methods are case-sensitive, but not for every server.
        _ if method
            .as_str()
            .bytes()
            .any(|byte| byte.is_ascii_lowercase()) =>
        {
            Err(Rejected::MethodCase)
        }
        _ => Ok(()),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let mut kinds = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(kind), None) = (kinds.next(), kinds.next()) else {
        return false;
    };
    if kind == JSON {
        return true;
    }
    kind.to_str()
        .ok()
        .and_then(|value| value.split(';').next())
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case(JSON))
}

/// Whether every upstream reads the same path as pacegate. Absolute form is for proxies; a client
/// that sends it takes pacegate for one.
fn is_plain(uri: &Uri) -> bool {
    let path = uri.path();
    if uri.authority().is_some() || !path.starts_with('/') || !path.bytes().all(is_allowed) {
        return false;
    }
    let mut segments = path.as_bytes()[1..].split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        // A trailing slash makes an empty last segment, which is harmless.
        let is_empty = segment.is_empty() && segments.peek().is_some();
        if is_empty || !has_valid_escapes(segment) || is_dots(segment) {
            return false;
        }
    }
    true
}

/// Bytes that a path may contain unescaped by [RFC 3986 §3.3], `/` and `%` included.
///
/// [RFC 3986 §3.3]: https://www.rfc-editor.org/rfc/rfc3986#section-3.3
fn is_allowed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%".contains(&byte)
}

/// Whether each escape is two hexadecimal digits and none encodes a slash or a backslash, which
/// some servers read as a plain one.
fn has_valid_escapes(segment: &[u8]) -> bool {
    let mut rest = segment;
    while let Some(at) = rest.iter().position(|byte| *byte == b'%') {
        rest = &rest[at + 1..];
        let code = rest.get(..2).unwrap_or_default();
        let is_hex = code.len() == 2 && code.iter().all(u8::is_ascii_hexdigit);
        if !is_hex || code.eq_ignore_ascii_case(b"2f") || code.eq_ignore_ascii_case(b"5c") {
            return false;
        }
    }
    true
}

/// Whether `segment` is `.` or `..`, each dot plain or encoded.
fn is_dots(mut segment: &[u8]) -> bool {
    let mut dots = 0;
    while let Some(first) = segment.first() {
        segment = match *first {
            b'.' => &segment[1..],
            b'%' if segment.len() >= 3 && segment[1..3].eq_ignore_ascii_case(b"2e") => {
                &segment[3..]
            }
            _ => return false,
        };
        dots += 1;
    }
    matches!(dots, 1 | 2)
}

#[cfg(test)]
mod tests;
