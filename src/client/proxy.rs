//! Whether requests go through a proxy, and how the proxy is addressed.

use http::{HeaderValue, StatusCode, Uri};
use hyper_util::client::{
    legacy::connect::{HttpConnector, proxy::Tunnel},
    proxy::matcher::Matcher,
};
use pacegate_layers::error::BoxError;
use tower::Service;

use super::{
    endpoint::{BaseUrl, Origin},
    error::{ClientError, ProxyAuthRequired},
};
use crate::config::{HttpVersion, is_loopback_host};

/// The route to an origin.
#[derive(Clone, Debug)]
pub(super) enum ProxyRoute {
    Direct,
    /// Plain HTTP goes to the proxy with the absolute URL in the request line
    /// ([RFC 9112 §3.2.2](https://www.rfc-editor.org/rfc/rfc9112#section-3.2.2)).
    Forward(Proxy),
    /// The proxy opens a tunnel and sees only the host's name.
    Tunnel(Proxy),
}

/// An HTTP proxy.
#[derive(Clone, Debug)]
pub(super) struct Proxy {
    pub(super) origin: Origin,
    /// `Proxy-Authorization`, marked sensitive.
    pub(super) authorization: Option<HeaderValue>,
}

/// The error of every tunnel; its own name is private to hyper-util.
type TunnelError = <Tunnel<HttpConnector> as Service<Uri>>::Error;

// === impl ProxyRoute ===

impl ProxyRoute {
    /// The route to `base` by the rules of `matcher`.
    ///
    /// Loopback is exempt: a proxy's loopback is another machine's, and an `HTTP_PROXY` for the
    /// Internet must not break a local model. (curl leaves that to `NO_PROXY`.)
    pub(super) fn choose(
        matcher: &Matcher,
        base: &BaseUrl,
        http: HttpVersion,
    ) -> Result<Self, ClientError> {
        let host = base.origin.bare_host();
        if is_loopback_host(host) || host.ends_with(".localhost") {
            return Ok(Self::Direct);
        }
        let Some(found) = matcher.intercept(&base.uri) else {
            return Ok(Self::Direct);
        };
        let proxy = found.uri();
        let host = proxy.host().unwrap_or_default();
        if proxy.scheme_str() != Some("http") || host.is_empty() {
            return Err(ClientError::Proxy(proxy.to_string()));
        }
        let proxy = Proxy {
            origin: Origin {
                https: false,
                host: host.to_owned(),
                port: proxy.port_u16().unwrap_or(80),
            },
            authorization: found.basic_auth().cloned(),
        };
        // pacegate speaks HTTP/1.1 with a forwarding proxy; HTTP/2 needs a tunnel.
        if base.origin.https || http == HttpVersion::H2 {
            return Ok(Self::Tunnel(proxy));
        }
        Ok(Self::Forward(proxy))
    }

    /// Checks the error of a connection attempt.
    ///
    /// # Errors
    ///
    /// [`ProxyAuthRequired`] if the proxy responded 407 to CONNECT.
    pub(super) fn check_error(&self, error: &BoxError) -> Result<(), ProxyAuthRequired> {
        match (self, error.downcast_ref()) {
            (Self::Tunnel(proxy), Some(TunnelError::ProxyAuthRequired)) => {
                Err(proxy.auth_required())
            }
            _ => Ok(()),
        }
    }

    /// Checks the status of a response: a 407 of a forwarding proxy is the proxy's own, about
    /// credentials that only this client can give. Any other 407 is the upstream's.
    ///
    /// # Errors
    ///
    /// [`ProxyAuthRequired`] for such a 407.
    pub(super) fn check_status(&self, status: StatusCode) -> Result<(), ProxyAuthRequired> {
        match self {
            Self::Forward(proxy) if status == StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                Err(proxy.auth_required())
            }
            _ => Ok(()),
        }
    }
}

// === impl Proxy ===

impl Proxy {
    fn auth_required(&self) -> ProxyAuthRequired {
        ProxyAuthRequired {
            proxy: self.origin.address(),
            has_credentials: self.authorization.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(matcher: &Matcher, uri: &str) -> Result<ProxyRoute, ClientError> {
        let base = BaseUrl::new(uri.parse().unwrap()).unwrap();
        ProxyRoute::choose(matcher, &base, HttpVersion::Auto)
    }

    #[test]
    fn loopback_never_goes_through_a_proxy() {
        let matcher = Matcher::builder().all("http://proxy.test:3128").build();
        for uri in [
            "http://localhost:8000",
            "http://127.0.0.1/v1",
            "http://[::1]:1",
            "https://a.localhost",
        ] {
            assert!(
                matches!(choose(&matcher, uri), Ok(ProxyRoute::Direct)),
                "{uri}"
            );
        }
        assert!(matches!(
            choose(&matcher, "https://api.test"),
            Ok(ProxyRoute::Tunnel(_))
        ));
        assert!(matches!(
            choose(&matcher, "http://api.test"),
            Ok(ProxyRoute::Forward(_))
        ));
    }

    #[test]
    fn no_proxy_is_honoured() {
        let matcher = Matcher::builder()
            .all("http://proxy.test")
            .no("api.test, 10.0.0.0/8")
            .build();
        assert!(matches!(
            choose(&matcher, "https://eu.api.test/v1"),
            Ok(ProxyRoute::Direct)
        ));
        assert!(matches!(
            choose(&matcher, "http://10.1.2.3/v1"),
            Ok(ProxyRoute::Direct)
        ));
        assert!(matches!(
            choose(&matcher, "https://other.test"),
            Ok(ProxyRoute::Tunnel(_))
        ));
    }

    #[test]
    fn an_unknown_kind_of_proxy_is_refused_without_its_password() {
        for proxy in [
            "socks5://user:canary@proxy.test",
            "https://user:canary@proxy.test",
        ] {
            let matcher = Matcher::builder().all(proxy).build();
            let error = choose(&matcher, "https://api.test")
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("proxy.test") && !error.contains("canary"),
                "{error}"
            );
        }
    }

    #[test]
    fn only_a_forwarding_proxy_speaks_for_itself_in_a_407() {
        let matcher = Matcher::builder().all("http://proxy.test:3128").build();
        let check = |uri, status: u16| {
            let route = choose(&matcher, uri).unwrap();
            route.check_status(status.try_into().unwrap())
        };
        let error = check("http://api.test", 407).unwrap_err().to_string();
        assert!(
            error.starts_with("the proxy proxy.test:3128 wants credentials\nhint: "),
            "{error}"
        );
        for status in [200, 401, 403, 408, 429, 502] {
            check("http://api.test", status).unwrap();
        }
        check("https://api.test", 407).unwrap();
        check("http://localhost", 407).unwrap();
    }

    #[test]
    fn debug_output_holds_no_password() {
        let matcher = Matcher::builder()
            .all("http://user:canary@proxy.test")
            .build();
        let route = choose(&matcher, "https://api.test").unwrap();
        let basic = "dXNlcjpjYW5hcnk="; // base64 of user:canary
        let debug = format!("{route:?}");
        assert!(
            !debug.contains("canary") && !debug.contains(basic),
            "{debug}"
        );
    }
}
