//! `response-headers`: the response headers that clients see.

use http::HeaderName;
use pacegate_layers::header_align::is_hop_by_hop;

use super::{ResponseHeaders, cursor::Cursor};

/// A shorter prefix would match headers that were not meant.
const LEAST_PREFIX: usize = 3;

// === impl ResponseHeaders ===

impl ResponseHeaders {
    /// Why a header of this name is dropped whatever the lists say.
    pub fn withheld(name: &HeaderName) -> Option<&'static str> {
        if is_hop_by_hop(name) {
            return Some("it is about one connection, and the client's is another one");
        }
        Some(match name.as_str() {
            "alt-svc" => "it would lead the client to another server",
            "content-length" => "it goes through where it is right",
            "set-cookie" => "it is a secret of the upstream's, and the account is pacegate's",
            name if name.starts_with("access-control-") => {
                "it would open pacegate to the pages of a browser"
            }
            name if name.starts_with("x-pacegate-") => "only pacegate itself may say it",
            _ => return None,
        })
    }
}

/// Reads the table; the `add` list extends the `pass` list.
pub(super) fn read(cursor: &Cursor<'_>) -> Option<ResponseHeaders> {
    let mut table = cursor.table()?;
    let pass = table.required("pass").and_then(|names| names.list(name));
    let add = table.required("add").and_then(|names| names.list(name));
    table.finish();
    let mut headers = ResponseHeaders::default();
    for (name, is_prefix) in pass?.into_iter().chain(add?) {
        if is_prefix {
            headers.prefixes.push(name.as_str().to_owned());
        } else {
            headers.names.push(name);
        }
    }
    Some(headers)
}

/// A name, and whether it is only a prefix.
fn name(cursor: &Cursor<'_>) -> Option<(HeaderName, bool)> {
    let (name, is_prefix) = cursor.parse(
        "a header name, or its first letters and a star",
        "x-ratelimit-*",
        |text| match text.strip_suffix('*') {
            None => Some((text.parse::<HeaderName>().ok()?, false)),
            Some(prefix) if prefix.len() < LEAST_PREFIX => None,
            Some(prefix) => Some((prefix.parse().ok()?, true)),
        },
    )?;
    match ResponseHeaders::withheld(&name) {
        Some(reason) => cursor.refuse(
            format!("{name} cannot go through: {reason}"),
            "delete it from the list",
        ),
        None => Some((name, is_prefix)),
    }
}
