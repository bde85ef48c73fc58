//! The errors on the way to the upstream and back, one small type each.
//!
//! No text contains a secret: texts name hosts and ports, never a header, a body or the user info
//! of a URL.

use std::{fmt, path::PathBuf, time::Duration};

use pacegate_layers::error::BoxError;

/// A client that cannot be built as configured.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The base URL cannot be used for requests.
    #[error("the base URL {0} is not usable\nhint: write http:// or https:// and a host")]
    BaseUrl(http::Uri),
    /// The `ca-file` contains no usable certificate.
    #[error(
        "ca-file {}: {reason}\nhint: it must hold certificates in PEM form (-----BEGIN CERTIFICATE-----)",
        file.display()
    )]
    CaFile {
        /// The file as configured.
        file: PathBuf,
        /// The cause.
        reason: String,
    },
    /// The proxy in the environment speaks a protocol that pacegate does not.
    #[error(
        "proxy {0}: only http:// proxies are supported\nhint: check HTTPS_PROXY, HTTP_PROXY and ALL_PROXY"
    )]
    Proxy(String),
    /// The operating system has no root certificates.
    #[error(
        "no root certificates found on this system\nhint: install ca-certificates, set SSL_CERT_FILE, or use roots = \"bundled\""
    )]
    SystemRoots(#[source] Option<rustls_native_certs::Error>),
    /// The TLS library rejected its settings.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    /// The `ca-file` cannot be read.
    #[error("ca-file {}: cannot be read\nhint: check the path and its permissions", file.display())]
    UnreadableCaFile {
        /// The file as configured.
        file: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}

/// How far a connection attempt got, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Looking up the name.
    Resolve,
    /// Opening the TCP connection.
    Connect,
    /// Reaching the proxy, or asking it for a tunnel.
    Proxy,
    /// The TLS handshake, ALPN included.
    Tls,
    /// The first bytes of HTTP/2, before any request.
    Http2,
}

/// No connection was made: not a byte of the request was sent.
///
/// It travels inside [`NotSent`](pacegate_layers::error::NotSent), so a retry is safe.
#[derive(Debug, thiserror::Error)]
#[error("{stage} {address} failed")]
pub struct ConnectError {
    /// The stage that failed.
    pub stage: Stage,
    /// `host:port` of the upstream, or of the proxy if the proxy failed.
    pub address: String,
    /// The cause; [`ConnectTimeout`] after a time-out.
    pub source: BoxError,
}

/// Connecting took longer than `connect-timeout`.
#[derive(Debug, thiserror::Error)]
#[error("no connection within {0:?}")]
pub struct ConnectTimeout(pub Duration);

/// The upstream's certificate does not verify. A retry does not help.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the certificate of {host} was not accepted: {reason}\nhint: {}", self.hint())]
pub struct CertificateError {
    /// The requested name.
    pub host: String,
    /// What is wrong with the certificate.
    pub reason: rustls::CertificateError,
}

/// The proxy on the way to the upstream wants credentials, or others than it was given: it responded
/// 407 to CONNECT, or to a request that it was to forward. The upstream has not seen the request. A
/// retry does not help.
#[derive(Debug, thiserror::Error)]
#[error("the proxy {proxy} wants credentials\nhint: {}", self.hint())]
pub struct ProxyAuthRequired {
    /// `host:port` of the proxy.
    pub proxy: String,
    /// Whether the proxy's URL contains credentials.
    pub has_credentials: bool,
}

/// No connection was tried, because several in a row have failed, and the next try is not due or
/// another request's. Not a byte of the request was sent.
///
/// It does not travel inside [`NotSent`](pacegate_layers::error::NotSent): a retry would wait for
/// nothing.
#[derive(Debug, thiserror::Error)]
#[error("no further connection was tried")]
pub struct Unreachable {
    /// The latest failure. Its cause is text.
    pub source: ConnectError,
    /// How long until the next try may begin. Zero while there is one.
    pub retry_after: Duration,
}

/// The upstream allows no stream on its HTTP/2 connections.
#[derive(Debug, thiserror::Error)]
#[error("the server has allowed no stream (SETTINGS_MAX_CONCURRENT_STREAMS 0) for {0:?}")]
pub struct NoStreams(pub Duration);

/// The upstream demands HTTP/1.1, and the configuration HTTP/2. The request was not processed.
#[derive(Debug, thiserror::Error)]
#[error("{address} requires HTTP/1.1\nhint: set http = \"auto\"")]
pub struct Http1Required {
    /// `host:port` of the upstream.
    pub address: String,
    /// The cause.
    pub source: BoxError,
}

/// No response headers within `head-timeout`; the upstream may have acted on the request.
#[derive(Debug, thiserror::Error)]
#[error("no response head from {address} within {after:?}")]
pub struct HeadTimeout {
    /// `host:port` of the upstream.
    pub address: String,
    /// The time-out.
    pub after: Duration,
}

/// The response headers are larger than `max-head`, or more than hyper accepts (100); the upstream
/// has acted on the request.
#[derive(Debug, thiserror::Error)]
#[error(
    "the head of the upstream's response is larger than max-head allows ({most}), or has more than \
     100 fields"
)]
pub struct HeadTooLarge {
    /// `max-head`.
    pub most: bytesize::ByteSize,
}

/// The connection broke, or sent something that is not HTTP, before a response; the upstream may
/// have acted on the request.
#[derive(Debug, thiserror::Error)]
#[error("the connection to {address} broke before a response head came")]
pub struct ConnectionLost {
    /// `host:port` of the upstream.
    pub address: String,
    /// The cause.
    pub source: BoxError,
}

/// The upstream responded 101 to a request that asked for no other protocol.
#[derive(Debug, thiserror::Error)]
#[error("{address} switched to another protocol, which nobody asked for")]
pub struct UnexpectedUpgrade {
    /// `host:port` of the upstream.
    pub address: String,
}

/// A response with both a length and a transfer coding: another reader may see another body.
#[derive(Debug, thiserror::Error)]
#[error("both a content-length and a transfer coding")]
pub struct AmbiguousLength;

/// A response with a transfer coding other than `chunked` alone.
#[derive(Debug, thiserror::Error)]
#[error("a transfer coding other than chunked alone")]
pub struct UnknownCoding;

/// A response body fell silent for longer than `idle-timeout`.
#[derive(Debug, thiserror::Error)]
#[error("the response body was silent for {0:?}")]
pub struct IdleTimeout(pub Duration);

/// A response body ended before its framing said so.
#[derive(Debug, thiserror::Error)]
#[error("the response body was cut short")]
pub struct Truncated(#[source] pub Option<BoxError>);

// === impl Stage ===

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolve => "looking up",
            Self::Connect => "connecting to",
            Self::Proxy => "going through proxy",
            Self::Tls => "the TLS handshake with",
            Self::Http2 => "beginning HTTP/2 with",
        })
    }
}

// === impl CertificateError ===

impl CertificateError {
    fn hint(&self) -> &'static str {
        use rustls::CertificateError as Reason;

        match self.reason {
            Reason::Expired
            | Reason::ExpiredContext { .. }
            | Reason::NotValidYet
            | Reason::NotValidYetContext { .. } => {
                "check this machine's clock, else the upstream has to renew its certificate"
            }
            Reason::NotValidForName | Reason::NotValidForNameContext { .. } => {
                "check the host in base-url"
            }
            _ => {
                "for a private authority set tls = { ca-file = \"PATH\" }, for one that this system \
                 trusts tls = { roots = \"system\" }"
            }
        }
    }
}

// === impl ProxyAuthRequired ===

impl ProxyAuthRequired {
    fn hint(&self) -> String {
        let Self {
            proxy,
            has_credentials,
        } = self;
        if *has_credentials {
            return "it did not accept those in its URL (HTTPS_PROXY, HTTP_PROXY or ALL_PROXY); write \
                    special characters in percent-encoding, such as %40 for @"
                .to_owned();
        }
        format!(
            "write them into its URL in HTTPS_PROXY, HTTP_PROXY or ALL_PROXY: \
             http://USER:PASSWORD@{proxy}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_certificate_error_says_what_to_do() {
        let text = |reason| {
            CertificateError {
                host: "api.test".into(),
                reason,
            }
            .to_string()
        };
        let unknown = text(rustls::CertificateError::UnknownIssuer);
        assert!(unknown.contains("api.test"), "{unknown}");
        assert!(
            unknown.contains("ca-file") && unknown.contains("roots = \"system\""),
            "{unknown}"
        );
        assert!(text(rustls::CertificateError::Expired).contains("clock"));
        assert!(text(rustls::CertificateError::NotValidForName).contains("base-url"));
    }
}
