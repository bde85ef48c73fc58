//! Where requests go, and what a request must look like there.

use std::sync::Arc;

use http::{Uri, Version, header};
use http_body::Body as _;

use super::{base::Base, connections::Connections, exchange::Outgoing, h2, proxy::Route};

/// A base URL and the connections to its origin.
pub(super) struct Target {
    pub(super) base: Base,
    pub(super) connections: Arc<Connections>,
}

// === impl Target ===

impl Target {
    pub(super) fn new(base: Base, connections: Arc<Connections>) -> Self {
        Self { base, connections }
    }

    /// Origin-form, or the whole URL for a proxy that forwards.
    pub(super) fn dress_for_h1(&self, request: &mut Outgoing) {
        *request.version_mut() = Version::HTTP_11;
        set_length(request);
        request
            .headers_mut()
            .insert(header::HOST, self.base.host.clone());
        if let Route::Forward(proxy) = &self.connections.connector.route {
            self.make_absolute(request);
            if let Some(authorization) = &proxy.authorization {
                request
                    .headers_mut()
                    .insert(header::PROXY_AUTHORIZATION, authorization.clone());
            }
        }
    }

    /// The pseudo-header fields come from the URL.
    pub(super) fn dress_for_h2(&self, request: &mut Outgoing) {
        *request.version_mut() = Version::HTTP_2;
        set_length(request);
        self.make_absolute(request);
        let headers = std::mem::take(request.headers_mut());
        *request.headers_mut() = h2::without_connection_fields(headers);
    }

    fn make_absolute(&self, request: &mut Outgoing) {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = self.base.uri.scheme().cloned();
        parts.authority = Some(self.base.authority.clone());
        // With a path, which `join` gave it, a scheme and an authority make a URI.
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    }
}

/// The body is complete, so its length is known, whatever the header says.
fn set_length(request: &mut Outgoing) {
    let length = request.body().size_hint().lower();
    let headers = request.headers_mut();
    if length > 0 || headers.contains_key(header::CONTENT_LENGTH) {
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
}
