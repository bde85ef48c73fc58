//! What goes out, and what can go wrong before the head of a response.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use http_body_util::Full;
use pacegate_layers::error::BoxError;

/// What goes out: complete, so that sending it again is a cheap clone.
pub(super) type Outgoing = Request<Full<Bytes>>;

/// Why no response head came.
#[derive(Debug)]
pub(super) enum Failed {
    /// The connection broke; the upstream may have seen the request.
    Broken(BoxError),
    /// A head came that is too large.
    HeadTooLarge,
    /// The upstream wants to speak another protocol, which nobody asked for.
    Switched,
    /// The deadline passed; the upstream has probably seen the request.
    TimedOut,
    /// The connection was over before the first byte was written. Boxed for its size.
    Unsent(Box<Outgoing>),
}

/// What the fields of a head take in HTTP/1.1: `name: value` and a line end each, and one more at the
/// end.
pub(super) fn header_size(headers: &HeaderMap) -> usize {
    let field = |(name, value): (&HeaderName, &HeaderValue)| {
        name.as_str().len() + value.len() + ": \r\n".len()
    };
    headers.iter().map(field).sum::<usize>() + "\r\n".len()
}
