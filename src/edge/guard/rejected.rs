//! Why a request is rejected, with its status and error code.

use http::StatusCode;

/// Why a request is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::edge) enum Rejected {
    #[error(
        "send pacegate's client key as the API key (Authorization: Bearer …); it is one of \
         client-keys in the config"
    )]
    ClientKey,
    #[error("POST needs content-type: application/json")]
    ContentType,
    #[error("send one content-length, in decimal digits, or transfer-encoding: chunked, not both")]
    Framing,
    #[error(
        "the request has more or larger headers than limits.max-header-fields and \
         limits.max-header-size in pacegate's config allow"
    )]
    HeadTooLarge,
    #[error(
        "the Host header names a host that pacegate does not answer for; add it to allowed-hosts \
         if it is yours"
    )]
    Host,
    #[error("the request needs exactly one Host header")]
    HostMissing,
    #[error("CONNECT and TRACE are not offered: pacegate is not a forward proxy")]
    Method,
    #[error("the method must be in capital letters")]
    MethodCase,
    #[error(
        "the Origin header names a web page that may not use pacegate; add it to allowed-origins \
         if it is yours"
    )]
    Origin,
    #[error("OPTIONS is not offered: no web page gets a preflight answered")]
    Preflight,
    #[error(
        "the request target must be a plain path: no empty, dot or encoded-slash segment, no \
         backslash, no unescaped special character, no other host"
    )]
    Target,
    #[error("the request target is longer than limits.max-target in pacegate's config allows")]
    TargetTooLong,
}

// === impl Rejected ===

impl Rejected {
    pub(in crate::edge) fn status(self) -> StatusCode {
        match self {
            Self::ClientKey => StatusCode::UNAUTHORIZED,
            Self::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Host | Self::Origin | Self::Preflight => StatusCode::FORBIDDEN,
            Self::Framing | Self::HostMissing | Self::MethodCase | Self::Target => {
                StatusCode::BAD_REQUEST
            }
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
        }
    }

    pub(in crate::edge) fn code(self) -> &'static str {
        match self {
            Self::ClientKey => "invalid_client_key",
            Self::ContentType => "unsupported_content_type",
            Self::Host => "host_not_allowed",
            Self::HostMissing => "host_missing",
            Self::Framing | Self::MethodCase => "malformed_request",
            Self::HeadTooLarge | Self::TargetTooLong => "request_too_large",
            Self::Method => "method_not_allowed",
            Self::Origin => "origin_not_allowed",
            Self::Preflight => "preflight_not_allowed",
            Self::Target => "invalid_target",
        }
    }
}
