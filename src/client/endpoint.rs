//! Where requests go, and the form they need there.

use std::sync::Arc;

use http::{
    HeaderValue, Method, Uri, Version, header,
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body::Body as _;

use super::{
    connections::Connections, error::ClientError, exchange::UpstreamRequest, h2, proxy::ProxyRoute,
};

/// A base URL and the connections to its origin.
pub(super) struct Endpoint {
    pub(super) base: BaseUrl,
    pub(super) connections: Arc<Connections>,
}

/// A base URL to which requests can be joined.
#[derive(Clone, Debug)]
pub(super) struct BaseUrl {
    pub(super) uri: Uri,
    pub(super) origin: Origin,
    /// The value of `Host` and `:authority`, without the scheme's default port.
    pub(super) authority: Authority,
    pub(super) host: HeaderValue,
    /// The URL's path without a trailing slash; empty for the root.
    prefix: String,
}

/// Scheme, host and port: connections to equal ones are interchangeable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) https: bool,
    /// As in the URL, in lower case; an IPv6 address has its brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

// === impl Endpoint ===

impl Endpoint {
    pub(super) fn new(base: BaseUrl, connections: Arc<Connections>) -> Self {
        Self { base, connections }
    }

    /// Prepares `request` for `url`, a URL of this endpoint, over HTTP/1.1. A `host` header keeps
    /// its position.
    pub(super) fn prepare_h1(&self, request: &mut UpstreamRequest, url: Uri) {
        *request.version_mut() = Version::HTTP_11;
        let headers = request.headers_mut();
        headers.insert(header::HOST, self.base.host.clone());
        // The body is complete, so its length frames it.
        headers.remove(header::TRANSFER_ENCODING);
        if let ProxyRoute::Forward(proxy) = &self.connections.connector().route {
            if let Some(authorization) = &proxy.authorization {
                headers.insert(header::PROXY_AUTHORIZATION, authorization.clone());
            }
            *request.uri_mut() = url;
        } else {
            *request.uri_mut() = url.path_and_query().cloned().map(Uri::from).unwrap_or(url);
        }
        set_length(request);
    }

    /// Prepares `request` for HTTP/2, where the URL contains the host.
    pub(super) fn prepare_h2(&self, request: &mut UpstreamRequest, url: Uri) {
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = url;
        set_length(request);
        let headers = std::mem::take(request.headers_mut());
        *request.headers_mut() = h2::without_connection_fields(headers);
    }
}

/// Sets the length of the body, which is complete, whatever the headers say. Methods that usually
/// have a body also state that it is empty ([RFC 9110 §8.6]).
///
/// [RFC 9110 §8.6]: https://www.rfc-editor.org/rfc/rfc9110#section-8.6
fn set_length(request: &mut UpstreamRequest) {
    let length = request.body().size_hint().lower();
    let has_body = matches!(
        *request.method(),
        Method::PATCH | Method::POST | Method::PUT
    );
    let headers = request.headers_mut();
    if has_body || length > 0 || headers.contains_key(header::CONTENT_LENGTH) {
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
}

// === impl BaseUrl ===

impl BaseUrl {
    pub(super) fn new(uri: Uri) -> Result<Self, ClientError> {
        let unusable = || ClientError::BaseUrl(without_user_info(&uri));
        let https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(unusable()),
        };
        let host = uri.host().unwrap_or_default().to_ascii_lowercase();
        if host.is_empty() {
            return Err(unusable());
        }
        let default_port = if https { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(default_port);
        let authority = if port == default_port {
            host.clone()
        } else {
            format!("{host}:{port}")
        };
        Ok(Self {
            host: HeaderValue::try_from(&authority).map_err(|_| unusable())?,
            authority: Authority::try_from(authority).map_err(|_| unusable())?,
            origin: Origin { https, host, port },
            prefix: uri.path().trim_end_matches('/').to_owned(),
            uri,
        })
    }

    /// The URL of a request: the base's path, followed by `uri`'s path and query. Scheme and host
    /// of `uri` are ignored: the configuration alone decides the destination.
    ///
    /// # Errors
    ///
    /// If the URL is longer than a URI can be (65,534 bytes).
    pub(super) fn url(&self, uri: &Uri) -> Result<Uri, http::Error> {
        let relative = match uri.path_and_query() {
            Some(both) if !uri.path().is_empty() => both.as_str(),
            _ => "",
        };
        let needs_slash = match relative.as_bytes().first() {
            Some(b'/') => false,
            // A query directly follows the base's path, unless that is empty.
            Some(b'?') | None => self.prefix.is_empty(),
            Some(_) => true,
        };
        let slash = if needs_slash { "/" } else { "" };
        let path = [&self.prefix, slash, relative].concat();
        Uri::builder()
            .scheme(self.origin.scheme())
            .authority(self.authority.clone())
            .path_and_query(PathAndQuery::from_maybe_shared(path)?)
            .build()
    }
}

/// A URL for a message, without its user info, which may contain a password.
fn without_user_info(uri: &Uri) -> Uri {
    let mut parts = uri.clone().into_parts();
    let host = parts
        .authority
        .as_ref()
        .and_then(|authority| authority.as_str().rsplit('@').next()?.parse().ok());
    if host.is_some() {
        parts.authority = host;
    }
    Uri::from_parts(parts).unwrap_or_default()
}

// === impl Origin ===

impl Origin {
    pub(super) fn scheme(&self) -> Scheme {
        if self.https {
            Scheme::HTTPS
        } else {
            Scheme::HTTP
        }
    }

    /// The URL of the origin's root.
    pub(super) fn url(&self) -> Result<Uri, http::Error> {
        Uri::builder()
            .scheme(self.scheme())
            .authority(self.address())
            .path_and_query("/")
            .build()
    }

    /// `host:port`, for messages and for a proxy.
    pub(super) fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The host without the brackets of an IPv6 address.
    pub(super) fn bare_host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(base: &str, uri: Uri) -> String {
        let base = BaseUrl::new(base.parse().unwrap()).unwrap();
        let url = base.url(&uri).unwrap();
        url.path_and_query().unwrap().to_string()
    }

    #[test]
    fn the_path_of_a_request_follows_the_path_of_the_base() {
        let chat = || Uri::from_static("/chat/completions?x=1");
        assert_eq!(joined("https://h/v1", chat()), "/v1/chat/completions?x=1");
        assert_eq!(joined("https://h/v1/", chat()), "/v1/chat/completions?x=1");
        assert_eq!(joined("https://h", chat()), "/chat/completions?x=1");
        assert_eq!(joined("https://h/a/b", Uri::from_static("/")), "/a/b/");
    }

    #[test]
    fn an_empty_path_is_the_base_itself() {
        let relative = |path: Option<&'static str>| {
            let mut parts = http::uri::Parts::default();
            parts.path_and_query = path.map(PathAndQuery::from_static);
            Uri::from_parts(parts).unwrap()
        };
        assert_eq!(joined("https://h/v1", relative(None)), "/v1");
        assert_eq!(joined("https://h", relative(None)), "/");
        assert_eq!(joined("https://h/v1", relative(Some("?x=1"))), "/v1?x=1");
        assert_eq!(joined("https://h", relative(Some("?x=1"))), "/?x=1");
    }

    #[test]
    fn the_host_of_a_request_is_ignored() {
        let elsewhere = Uri::from_static("http://evil.test/models");
        assert_eq!(joined("https://h/v1", elsewhere), "/v1/models");
    }

    #[test]
    fn the_host_header_omits_user_info_and_the_default_port() {
        let host = |uri: &str| BaseUrl::new(uri.parse().unwrap()).unwrap().host;
        assert_eq!(host("https://user:pass@API.test:443/v1"), "api.test");
        assert_eq!(host("http://api.test:8080/v1"), "api.test:8080");
        assert_eq!(host("http://[::1]:80"), "[::1]");
    }

    #[test]
    fn an_unusable_base_url_is_refused_without_its_password() {
        for uri in ["/v1", "ftp://h/v1", "api.test:443"] {
            assert!(BaseUrl::new(uri.parse().unwrap()).is_err(), "{uri}");
        }
        let error = BaseUrl::new("ftp://user:canary@h/v1".parse().unwrap()).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
    }
}
