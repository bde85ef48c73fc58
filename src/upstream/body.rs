//! The body of a response, whichever HTTP version it comes over.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pacegate_layers::error::BoxError;

use super::{h1, h2};

/// A streaming response body.
///
/// Small chunks that have arrived already come as one frame of up to 16 KiB, and nothing ever waits
/// for more. A body that ends before its framing says so, breaks or falls silent is an error after
/// the data that did arrive, never an end.
///
/// # Cancel safety
///
/// Dropping a body that has not ended closes its HTTP/1.1 connection, or resets its HTTP/2 stream,
/// at once.
pub struct ResponseBody(Version);

enum Version {
    H1(h1::Body),
    H2(Box<h2::Body>),
}

impl From<h1::Body> for ResponseBody {
    fn from(body: h1::Body) -> Self {
        Self(Version::H1(body))
    }
}

impl From<h2::Body> for ResponseBody {
    fn from(body: h2::Body) -> Self {
        Self(Version::H2(Box::new(body)))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Version::H1(body) => Pin::new(body).poll_frame(cx),
            Version::H2(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Version::H1(body) => body.is_end_stream(),
            Version::H2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Version::H1(body) => body.size_hint(),
            Version::H2(body) => body.size_hint(),
        }
    }
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody")
            .field("size_hint", &self.size_hint())
            .finish_non_exhaustive()
    }
}
