//! What a request may not look like, and what is said about it.

use std::{error::Error as StdError, io};

use http::{HeaderName, StatusCode};
use pacegate_layers::error::chain;

/// Why a request was not handed to the HTTP server. Whatever two programs on a request's way might
/// read differently is in here, because one of the two can then be talked past.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::gateway) enum Violation {
    #[error("the request begins with more than one empty line")]
    BlankLines,
    #[error(
        "the chunked request body is malformed: a chunk is its length in hexadecimal digits, CR \
         LF, so many bytes, CR LF; chunk extensions are not taken"
    )]
    Chunk,
    #[error("the request head holds a control character")]
    ControlCharacter,
    #[error("send one content-length, in decimal digits, or transfer-encoding: chunked, not both")]
    ContentLength,
    #[error("a header name must be letters, digits and hyphens, with the colon right behind it")]
    FieldName,
    #[error("a header line continues the one before it; write it as one line")]
    Folded,
    #[error(
        "the request has more or larger headers than limits.max-header-fields and \
         limits.max-header-size in pacegate's config allow"
    )]
    HeadTooLarge,
    #[error("the request needs exactly one Host header")]
    Host,
    #[error("a line of the request does not end in CR LF")]
    LineEnd,
    #[error("CONNECT is not offered: pacegate is not a forward proxy")]
    Method,
    #[error("the request line must be a method, a target and HTTP/1.1, one space apart")]
    RequestLine,
    #[error(
        "the request target must be a path that begins with one slash, without a scheme, a host, \
         a fragment or an unescaped special character"
    )]
    Target,
    #[error("the request target is longer than limits.max-target in pacegate's config allows")]
    TargetTooLong,
    #[error("trailers behind a request body are not taken; send the fields as headers")]
    Trailers,
    #[error("the only transfer coding is chunked, once, and in HTTP/1.1")]
    TransferCoding,
    #[error("this connection speaks HTTP/1.1 and nothing else; send no upgrade header")]
    Upgrade,
    #[error("the version must be HTTP/1.1 or HTTP/1.0")]
    Version,
}

/// In the request that stands in for a refused one: which [`Violation`] it was. No client can send
/// it, since a name with an underscore is itself a violation.
pub(in crate::gateway) const REFUSED_AS: HeaderName = HeaderName::from_static("refused_as");

const ALL: [Violation; 17] = [
    Violation::BlankLines,
    Violation::Chunk,
    Violation::ControlCharacter,
    Violation::ContentLength,
    Violation::FieldName,
    Violation::Folded,
    Violation::HeadTooLarge,
    Violation::Host,
    Violation::LineEnd,
    Violation::Method,
    Violation::RequestLine,
    Violation::Target,
    Violation::TargetTooLong,
    Violation::Trailers,
    Violation::TransferCoding,
    Violation::Upgrade,
    Violation::Version,
];

// === impl Violation ===

impl Violation {
    pub(in crate::gateway) fn status(self) -> StatusCode {
        match self {
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            // Also for what RFC 9112 would rather answer with 501 or 505: those are tried again.
            _ => StatusCode::BAD_REQUEST,
        }
    }

    pub(in crate::gateway) fn code(self) -> &'static str {
        match self {
            Self::HeadTooLarge | Self::TargetTooLong => "request_too_large",
            Self::Host => "host_missing",
            Self::Method => "method_not_allowed",
            Self::Target => "invalid_target",
            _ => "malformed_request",
        }
    }

    /// A request that the edge refuses with this violation, and that ends the connection.
    pub(super) fn stand_in(self) -> Vec<u8> {
        let which = ALL.iter().position(|known| *known == self);
        format!(
            "GET / HTTP/1.1\r\n{REFUSED_AS}: {}\r\nconnection: close\r\n\r\n",
            which.unwrap_or_default()
        )
        .into_bytes()
    }

    /// What the value of [`REFUSED_AS`] means.
    pub(in crate::gateway) fn from_stand_in(which: &[u8]) -> Option<Self> {
        let which: usize = str::from_utf8(which).ok()?.parse().ok()?;
        ALL.get(which).copied()
    }

    /// The violation that made reading a body fail with `error`, if it was one.
    pub(in crate::gateway) fn behind(error: &(dyn StdError + 'static)) -> Option<Self> {
        // As a source an io::Error hides what it wraps.
        chain(error).find_map(|cause| {
            let inner = cause.downcast_ref::<io::Error>()?.get_ref()?;
            inner.downcast_ref().copied()
        })
    }
}

#[cfg(test)]
pub(in crate::gateway) fn all() -> impl Iterator<Item = Violation> {
    ALL.into_iter()
}
