//! The one body type of responses outside the layers.

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use pacegate_layers::error::BoxError;

/// A streaming body of any type, in a box; it is passed on frame by frame, never collected.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;
