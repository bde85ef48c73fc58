//! What an answer means, told by whoever knows the provider.

use http::{HeaderMap, StatusCode, header};

/// An answer, as far as it has been read.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// The first few KiB of its body.
    pub body: &'a [u8],
}

/// What an answer means for the request that got it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It goes to the client untouched.
    Pass,
    /// The upstream did not act on the request and will take it later.
    Retry,
}

/// Tells "slow down" from everything else.
pub trait Classify {
    /// Whether an answer with this status is worth reading into; a status that is not goes to the
    /// client at once.
    fn concerns(&self, status: StatusCode) -> bool {
        status.is_client_error() || status.is_server_error()
    }

    /// What `answer` means. Must not panic, whatever the upstream sent.
    fn classify(&self, answer: &Answer<'_>) -> Verdict;
}

/// The reading of [RFC 6585 §4] and [RFC 9110 §15.6.4]: 429, and 503 with a `Retry-After`, mean
/// "later".
///
/// [RFC 6585 §4]: https://www.rfc-editor.org/rfc/rfc6585#section-4
/// [RFC 9110 §15.6.4]: https://www.rfc-editor.org/rfc/rfc9110#section-15.6.4
#[derive(Clone, Copy, Debug, Default)]
pub struct StandardClassify;

impl Classify for StandardClassify {
    fn concerns(&self, status: StatusCode) -> bool {
        matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        )
    }

    fn classify(&self, answer: &Answer<'_>) -> Verdict {
        let later = match answer.status {
            StatusCode::TOO_MANY_REQUESTS => true,
            StatusCode::SERVICE_UNAVAILABLE => answer.headers.contains_key(header::RETRY_AFTER),
            _ => false,
        };
        if later { Verdict::Retry } else { Verdict::Pass }
    }
}

impl<C: Classify + ?Sized> Classify for std::sync::Arc<C> {
    fn concerns(&self, status: StatusCode) -> bool {
        (**self).concerns(status)
    }

    fn classify(&self, answer: &Answer<'_>) -> Verdict {
        (**self).classify(answer)
    }
}
