//! The error type of all layers, and the one distinction that every layer may rely on.

use std::error::Error;

/// The error that layers return: boxed, because changing the order of layers must not change types.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A request that certainly never reached the upstream: name resolution, connecting, a proxy or
/// the TLS handshake failed before the first byte of the request was written.
///
/// The HTTP client at the end of a pipeline wraps such failures in this type; nothing else does.
/// A retry of a `NotSent` request is always safe.
#[derive(Debug, thiserror::Error)]
#[error("the request was not sent")]
pub struct NotSent(#[source] pub BoxError);

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
