//! Event streams ([HTML §9.2]), as far as their beginning has to be understood.
//!
//! [HTML §9.2]: https://html.spec.whatwg.org/multipage/server-sent-events.html

use http::{HeaderMap, header};

/// The first event of a stream, as far as it has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstEvent<'a> {
    /// Its lines with their line endings, comments included, without the empty line that ends it.
    pub lines: &'a [u8],
    /// Whether the empty line that ends it has been read.
    pub is_complete: bool,
}

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// The first event in `stream` that is more than comments. Stops at its end: the buffered data may
/// contain many events, and reading them all would cost more than sending them.
pub fn first_event(mut stream: &[u8]) -> FirstEvent<'_> {
    // A byte order mark is not part of the first field's name.
    while let Some(rest) = stream.strip_prefix(BYTE_ORDER_MARK) {
        stream = rest;
    }
    let (mut start, mut at) = (0, 0);
    let mut has_field = false;
    while let Some(length) = stream[at..]
        .iter()
        .position(|byte| matches!(byte, b'\n' | b'\r'))
    {
        let (line, rest) = stream[at..].split_at(length);
        let next = at + length + if rest.starts_with(b"\r\n") { 2 } else { 1 };
        if line.is_empty() && has_field {
            return FirstEvent {
                lines: &stream[start..at],
                is_complete: true,
            };
        }
        if line.is_empty() {
            start = next;
        }
        has_field |= !line.is_empty() && !line.starts_with(b":");
        at = next;
    }
    FirstEvent {
        lines: &stream[start..],
        is_complete: false,
    }
}

/// Whether a response with these headers is an event stream without a content coding.
///
/// Nothing here decodes a content coding.
pub fn is_readable(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
        && !headers.contains_key(header::CONTENT_ENCODING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_found_behind_comments_with_any_line_ending() {
        for (stream, lines, is_complete) in [
            ("data: 1\n\ndata: 2\n\n", "data: 1\n", true),
            (": x\n\n\n:y\ndata\n\n", ":y\ndata\n", true),
            ("\u{feff}data: 1\r\n\r\n", "data: 1\r\n", true),
            ("data: 1\rid: 2\r\r", "data: 1\rid: 2\r", true),
            (": x\n\ndata: 1\n", "data: 1\n", false),
            (": x\n\ndat", "dat", false),
            (": x\n\n", "", false),
            ("", "", false),
        ] {
            let found = first_event(stream.as_bytes());
            let lines = lines.as_bytes();
            assert_eq!(found, FirstEvent { lines, is_complete }, "{stream:?}");
        }
    }
}
