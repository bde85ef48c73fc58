//! Where requests go, and what one must look like there over HTTP/2.

use std::sync::Arc;

use http::{Uri, Version, header};
use http_body::Body as _;
use pacegate_layers::header_align::settle;

use super::{base::Base, connections::Connections, exchange::Outgoing, h2};

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

    /// The pseudo-header fields come from the URL.
    ///
    /// # Errors
    ///
    /// If the URL gets longer than one can be.
    pub(super) fn dress_for_h2(&self, request: &mut Outgoing) -> Result<(), http::Error> {
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = Uri::builder()
            .scheme(if self.base.origin.https {
                "https"
            } else {
                "http"
            })
            .authority(self.base.authority.clone())
            .path_and_query(self.base.join(request.uri())?)
            .build()?;
        settle(request);
        set_length(request);
        let headers = std::mem::take(request.headers_mut());
        *request.headers_mut() = h2::without_connection_fields(headers);
        Ok(())
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
