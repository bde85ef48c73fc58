//! Which response headers of an upstream go to the client.

use http::{HeaderMap, HeaderName, header};
use pacegate_layers::header_align::strip_hop_by_hop;

use crate::config::ResponseHeaders;

/// Passes listed headers only. Drops, among others, `Set-Cookie`, `Alt-Svc` and CORS headers of the
/// upstream.
#[derive(Clone, Debug)]
pub(super) struct ResponseHeaderFilter {
    names: HeaderMap<()>,
    prefixes: Vec<String>,
}

// === impl ResponseHeaderFilter ===

impl ResponseHeaderFilter {
    pub(super) fn new(headers: &ResponseHeaders) -> Self {
        let names = headers.names.iter().cloned();
        Self {
            names: names.map(|name| (name, ())).collect(),
            prefixes: headers.prefixes.clone(),
        }
    }

    /// Removes the headers that must not go to the client.
    pub(super) fn retain(&self, headers: &mut HeaderMap) {
        let is_unlisted = |name: &&HeaderName| !self.passes(name);
        // Few headers, if any. Those of one connection are never listed, so they are among them.
        let unlisted: Vec<_> = headers.keys().filter(is_unlisted).cloned().collect();
        if unlisted.contains(&header::CONNECTION) {
            strip_hop_by_hop(headers);
        }
        if unlisted.contains(&header::TRANSFER_ENCODING) {
            // Wrong beside a transfer coding, and perhaps an attack.
            headers.remove(header::CONTENT_LENGTH);
        }
        for name in unlisted {
            headers.remove(name);
        }
    }

    fn passes(&self, name: &HeaderName) -> bool {
        let text = name.as_str();
        let has_prefix = || {
            self.prefixes
                .iter()
                .any(|prefix| text.starts_with(prefix.as_str()))
        };
        *name == header::CONTENT_LENGTH
            || self.names.contains_key(name)
            || has_prefix() && ResponseHeaders::withheld(name).is_none()
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    /// The headers that remain of `fields` if all of `x-` and `proxy-` may pass.
    fn passed_names(fields: &[(&'static str, &'static str)]) -> Vec<String> {
        let filter = ResponseHeaderFilter::new(&ResponseHeaders {
            names: vec![header::CONTENT_TYPE],
            prefixes: vec!["x-".into(), "proxy-".into()],
        });
        let fields = fields.iter().map(|(name, value)| {
            let name = HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        });
        let mut headers: HeaderMap = fields.collect();
        filter.retain(&mut headers);
        let mut names: Vec<_> = headers.keys().map(ToString::to_string).collect();
        names.sort();
        names
    }

    #[test]
    fn connection_headers_are_dropped_even_if_listed() {
        let fields = [
            ("connection", "close, x-hop"),
            ("content-type", "a/b"),
            ("proxy-authenticate", "Basic"),
            ("proxy-authorization", "Basic"),
            ("proxy-status", "x"),
            ("x-hop", "1"),
            ("x-id", "1"),
        ];
        assert_eq!(
            passed_names(&fields),
            ["content-type", "proxy-status", "x-id"]
        );
        let unnamed = passed_names(&fields[1..]);
        assert_eq!(unnamed, ["content-type", "proxy-status", "x-hop", "x-id"]);
    }

    #[test]
    fn a_length_passes_except_beside_a_coding() {
        let fields = [("content-length", "5"), ("transfer-encoding", "gzip")];
        assert_eq!(passed_names(&fields[..1]), ["content-length"]);
        assert_eq!(passed_names(&fields), [""; 0]);
    }
}
