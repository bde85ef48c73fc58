//! The one body type that answers have once they leave a layer.

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use pacegate_layers::error::BoxError;

/// A streaming body: boxed once, never collected.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;
