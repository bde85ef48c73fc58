//! What an answer means, told by whoever knows the provider.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};

use crate::pacing::Recovery;

/// An answer, as far as it has been read.
#[derive(Clone, Copy, Debug)]
pub struct PeekedResponse<'a> {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// The first few KiB of its body.
    pub body: &'a [u8],
}

/// What an answer means for the request that got it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to the client untouched.
    Pass,
    /// The upstream did not act on the request and will take it later.
    Retry {
        /// How to go on then.
        recovery: Recovery,
        /// The wait if the answer names none or a shorter one; zero leaves it to the answer.
        at_least: Duration,
    },
    /// Something is used up: waiting for it makes no sense.
    Exhausted {
        /// How long until there is some again, where that is known.
        reset: Option<Duration>,
    },
}

/// Tells "slow down" from everything else.
pub trait Classify {
    /// Whether an answer with this status is worth reading into; a status that is not goes to the
    /// client at once.
    fn inspects_status(&self, status: StatusCode) -> bool {
        status.is_client_error() || status.is_server_error()
    }

    /// Whether an event stream may begin with an error although its status is a success. Such a
    /// stream is held back until its first event is complete, and read.
    fn inspects_streams(&self) -> bool {
        false
    }

    /// What `answer` means. Must not panic, whatever the upstream sent.
    fn classify(&self, answer: &PeekedResponse<'_>) -> Verdict;
}

/// The reading of [RFC 6585 §4] and [RFC 9110 §15.6.4]: 429, and 503 with a `Retry-After`, mean
/// "later".
///
/// [RFC 6585 §4]: https://www.rfc-editor.org/rfc/rfc6585#section-4
/// [RFC 9110 §15.6.4]: https://www.rfc-editor.org/rfc/rfc9110#section-15.6.4
#[derive(Clone, Copy, Debug, Default)]
pub struct StandardClassify;

impl Verdict {
    /// Wait as long as the answer says, then go on as before.
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

    fn classify(&self, answer: &PeekedResponse<'_>) -> Verdict {
        let later = match answer.status {
            StatusCode::TOO_MANY_REQUESTS => true,
            StatusCode::SERVICE_UNAVAILABLE => answer.headers.contains_key(header::RETRY_AFTER),
            _ => false,
        };
        if later { Verdict::RETRY } else { Verdict::Pass }
    }
}

impl<C: Classify + ?Sized> Classify for std::sync::Arc<C> {
    fn inspects_status(&self, status: StatusCode) -> bool {
        (**self).inspects_status(status)
    }

    fn inspects_streams(&self) -> bool {
        (**self).inspects_streams()
    }

    fn classify(&self, answer: &PeekedResponse<'_>) -> Verdict {
        (**self).classify(answer)
    }
}
