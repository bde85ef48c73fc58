//! The error type of all layers, and the distinctions that every layer may rely on.

use std::error::Error;

/// The error that layers return: boxed, because changing the order of layers must not change types.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A request that certainly never reached the upstream: name resolution, connecting, a proxy or
/// the TLS handshake failed before the first byte of the request was written; or one that was
/// [`NotProcessed`].
///
/// The HTTP client at the end of a pipeline wraps such failures in this type; nothing else does.
/// A retry of a `NotSent` request is always safe.
#[derive(Debug, thiserror::Error)]
#[error("the request was not sent")]
pub struct NotSent(#[source] pub BoxError);

/// A request that was passed to a connection, and that the upstream did not process: not a byte of it
/// was written, or the upstream has said so ([RFC 9113 §8.7]).
///
/// It may be sent again at once, on another connection. The HTTP client wraps it in a [`NotSent`].
///
/// [RFC 9113 §8.7]: https://www.rfc-editor.org/rfc/rfc9113#section-8.7
#[derive(Debug, thiserror::Error)]
#[error("the upstream did not process the request")]
pub struct NotProcessed(#[source] pub BoxError);

/// The upstream refused the request because there are too many, in a way that is no response: a 429
/// that names no time. It did not process the request.
///
/// Over HTTP/2 it is the error `ENHANCE_YOUR_CALM` ([RFC 9113 §7]).
///
/// [RFC 9113 §7]: https://www.rfc-editor.org/rfc/rfc9113#section-7
#[derive(Debug, thiserror::Error)]
#[error("the upstream asked for fewer requests")]
pub struct SlowDown(#[source] pub BoxError);

/// A service was ready and is so no longer: its connection has closed, for example.
///
/// An error of `poll_ready`, and of `call` if it is noticed only there. The service cannot become
/// ready again; a fresh clone can.
#[derive(Debug, thiserror::Error)]
#[error("the service is no longer ready")]
pub struct Stale;

/// `error`, then its cause, and so on to the root.
pub fn chain<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// `error` and its causes on one line, for a log.
pub fn chain_text(error: &(dyn Error + 'static)) -> String {
    let texts: Vec<_> = chain(error).map(ToString::to_string).collect();
    texts.join(": ")
}

impl NotSent {
    /// Finds a `NotSent` in `error` or its causes.
    pub fn in_chain<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        chain(error).find_map(|error| error.downcast_ref())
    }
}
