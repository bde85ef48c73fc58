//! Where requests go, and the form they need there.

use std::sync::Arc;

use http::{Method, Uri, Version, header};
use http_body::Body as _;

use super::{
    base_url::BaseUrl, connections::Connections, exchange::UpstreamRequest, h2, proxy::ProxyRoute,
};

/// A base URL and the connections to its origin.
pub(super) struct Endpoint {
    pub(super) base: BaseUrl,
    pub(super) connections: Arc<Connections>,
}

// === impl Endpoint ===

impl Endpoint {
    pub(super) fn new(base: BaseUrl, connections: Arc<Connections>) -> Self {
        Self { base, connections }
    }

    /// Prepares `request` for `url`, a URL of this endpoint, over HTTP/1.1. A `host` header keeps
    /// its position.
    pub(super) fn prepare_h1(&self, request: &mut UpstreamRequest, url: Uri) {
        *request.version_mut() = Version::HTTP_11;
        let headers = request.headers_mut();
        headers.insert(header::HOST, self.base.host.clone());
        // The body is complete, so its length frames it.
        headers.remove(header::TRANSFER_ENCODING);
        if let ProxyRoute::Forward(proxy) = &self.connections.connector.route {
            if let Some(authorization) = &proxy.authorization {
                headers.insert(header::PROXY_AUTHORIZATION, authorization.clone());
            }
            *request.uri_mut() = url;
        } else {
            *request.uri_mut() = url.path_and_query().cloned().map(Uri::from).unwrap_or(url);
        }
        set_length(request);
    }

    /// Prepares `request` for HTTP/2, where the URL contains the host.
    pub(super) fn prepare_h2(&self, request: &mut UpstreamRequest, url: Uri) {
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = url;
        set_length(request);
        let headers = std::mem::take(request.headers_mut());
        *request.headers_mut() = h2::without_connection_fields(headers);
    }
}

/// Sets the length of the body, which is complete, whatever the headers say. Methods that usually
/// have a body also state that it is empty ([RFC 9110 §8.6]).
///
/// [RFC 9110 §8.6]: https://www.rfc-editor.org/rfc/rfc9110#section-8.6
fn set_length(request: &mut UpstreamRequest) {
    let length = request.body().size_hint().lower();
    let has_body = matches!(
        *request.method(),
        Method::PATCH | Method::POST | Method::PUT
    );
    let headers = request.headers_mut();
    if has_body || length > 0 || headers.contains_key(header::CONTENT_LENGTH) {
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
}
