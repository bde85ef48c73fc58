//! On whose behalf a client asks.

use std::sync::Arc;

use http::HeaderMap;
use pacegate_layers::session::Session;

use super::wire::Connection;

/// Whose turn the request takes: the session that OpenCode names, and the one it works for; without
/// a name the connection.
pub(super) fn session(headers: &HeaderMap, connection: Option<&Connection>) -> Session {
    let named = |name| headers.get(name)?.to_str().ok();
    let session = match (named("x-session-id"), connection) {
        (Some(id), _) => Session::new(id),
        (None, Some(connection)) => Session::new(Arc::clone(connection.name())),
        (None, None) => Session::new(""),
    };
    match named("x-parent-session-id") {
        Some(parent) => session.child_of(parent),
        None => session,
    }
}
