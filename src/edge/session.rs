//! Which session a request belongs to.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};
use pacegate_layers::context::Session;

use crate::server::Connection;

const X_SESSION_ID: HeaderName = HeaderName::from_static("x-session-id");
const X_PARENT_SESSION_ID: HeaderName = HeaderName::from_static("x-parent-session-id");

/// The session that OpenCode names, and its parent; without a name, the connection.
pub(super) fn session(headers: &HeaderMap, connection: Option<&Connection>) -> Session {
    let named = |name: HeaderName| headers.get(name)?.to_str().ok();
    let session = match (named(X_SESSION_ID), connection) {
        (Some(id), _) => Session::new(id),
        (None, Some(connection)) => Session::new(Arc::clone(connection.name())),
        (None, None) => Session::new(""),
    };
    match named(X_PARENT_SESSION_ID) {
        Some(parent) => session.child_of(parent),
        None => session,
    }
}
