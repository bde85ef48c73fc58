//! What a response means. Code that knows the provider implements [`Classify`].

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};

use crate::pacing::Recovery;

/// A response, as far as it has been read.
#[derive(Clone, Copy, Debug)]
pub struct PeekedResponse<'a> {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// The first few KiB of its body.
    pub body: &'a [u8],
}

/// What a response means for its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The response goes to the client unchanged.
    Pass,
    /// The upstream did not act on the request and will accept it later.
    Retry {
        /// How to continue then.
        recovery: Recovery,
        /// The wait if the response names none or a shorter one; with zero the response decides.
        at_least: Duration,
    },
    /// A quota is exhausted: waiting for it makes no sense.
    Exhausted {
        /// How long until the quota allows a request again, if known.
        reset: Option<Duration>,
    },
}

/// Distinguishes refusals from all other responses.
pub trait Classify {
    /// Whether to read the body of a response with this status; any other response goes to the
    /// client at once.
    fn inspects_status(&self, status: StatusCode) -> bool {
        status.is_client_error() || status.is_server_error()
    }

    /// Whether an event stream may begin with an error under a success status. Such a stream is
    /// held back until its first event is complete and has been read.
    fn inspects_streams(&self) -> bool {
        false
    }

    /// What the response means. Must not panic, whatever the upstream sent.
    fn classify(&self, response: &PeekedResponse<'_>) -> Verdict;
}

/// Classifies by [RFC 6585 §4] and [RFC 9110 §15.6.4]: 429, and 503 with a `Retry-After`, ask for a
/// retry later.
///
/// [RFC 6585 §4]: https://www.rfc-editor.org/rfc/rfc6585#section-4
/// [RFC 9110 §15.6.4]: https://www.rfc-editor.org/rfc/rfc9110#section-15.6.4
#[derive(Clone, Copy, Debug, Default)]
pub struct StandardClassify;

impl Verdict {
    /// Wait as long as the response asks, then continue as before.
    pub const RETRY: Self = Self::Retry {
        recovery: Recovery::Same,
        at_least: Duration::ZERO,
    };
}

impl Classify for StandardClassify {
    fn inspects_status(&self, status: StatusCode) -> bool {
        matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        )
    }

    fn classify(&self, response: &PeekedResponse<'_>) -> Verdict {
        let is_refusal = match response.status {
            StatusCode::TOO_MANY_REQUESTS => true,
            StatusCode::SERVICE_UNAVAILABLE => response.headers.contains_key(header::RETRY_AFTER),
            _ => false,
        };
        if is_refusal {
            Verdict::RETRY
        } else {
            Verdict::Pass
        }
    }
}

impl<C: Classify + ?Sized> Classify for std::sync::Arc<C> {
    fn inspects_status(&self, status: StatusCode) -> bool {
        (**self).inspects_status(status)
    }

    fn inspects_streams(&self) -> bool {
        (**self).inspects_streams()
    }

    fn classify(&self, response: &PeekedResponse<'_>) -> Verdict {
        (**self).classify(response)
    }
}
