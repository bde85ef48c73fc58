//! The one body type of responses outside the layers.

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use pacegate_layers::error::BoxError;

/// A streaming body: boxed once, never collected.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;
