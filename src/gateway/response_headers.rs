//! What a client gets to see of the header of an upstream's answer.

use http::{HeaderMap, HeaderName, header};
use pacegate_layers::header_align::strip_hop_by_hop;

use crate::config::ResponseHeaders;

/// Fields by name; all others stay behind. An upstream's cookies, its word on other servers and on
/// what web pages may do are between it and pacegate.
#[derive(Clone, Debug)]
pub(super) struct Passing {
    names: HeaderMap<()>,
    prefixes: Vec<String>,
}

// === impl Passing ===

impl Passing {
    pub(super) fn new(headers: &ResponseHeaders) -> Self {
        let names = headers.names.iter().cloned();
        Self {
            names: names.map(|name| (name, ())).collect(),
            prefixes: headers.prefixes.clone(),
        }
    }

    /// Leaves in `headers` what may go on.
    pub(super) fn sift(&self, headers: &mut HeaderMap) {
        let recoded = headers.contains_key(header::TRANSFER_ENCODING);
        strip_hop_by_hop(headers);
        let stays = |name: &&HeaderName| !self.passes(name, recoded);
        // Few, as a rule, if any.
        let behind: Vec<_> = headers.keys().filter(stays).cloned().collect();
        for name in behind {
            headers.remove(name);
        }
    }

    fn passes(&self, name: &HeaderName, recoded: bool) -> bool {
        if *name == header::CONTENT_LENGTH {
            // Beside a coding it is wrong, or a trap.
            return !recoded;
        }
        let text = name.as_str();
        let begins = || {
            self.prefixes
                .iter()
                .any(|prefix| text.starts_with(prefix.as_str()))
        };
        self.names.contains_key(name) || begins() && ResponseHeaders::withheld(text).is_none()
    }
}
