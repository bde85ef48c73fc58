//! Removes the headers of the client's connection, where header-align does not replace all headers.

use http::{HeaderMap, header};
use pacegate_layers::header_align::strip_hop_by_hop;

/// Removes the headers that must not go upstream.
pub(super) fn retain_end_to_end(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    headers.remove(header::HOST);
    headers.remove(header::CONTENT_LENGTH);
    // Some servers read an underscore as a hyphen (CGI does).
    let ambiguous: Vec<_> = headers
        .keys()
        .filter(|name| name.as_str().contains('_'))
        .cloned()
        .collect();
    for name in ambiguous {
        headers.remove(name);
    }
}
