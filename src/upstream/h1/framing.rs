//! Where a response ends, by [RFC 9112 §6.3], and what of it is data.
//!
//! What the RFC leaves to the reader's judgement is refused: two ways to end are two answers, and
//! which of them the next hop sees must not be anybody's choice.
//!
//! [RFC 9112 §6.3]: https://www.rfc-editor.org/rfc/rfc9112#section-6.3

use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode, Version};

use super::{Violation, chunked::Chunked};

/// How the end of a body is known; of a body in progress, what is still to come.
#[derive(Debug, PartialEq)]
pub(super) enum Framing {
    Chunked(Chunked),
    /// So many bytes, perhaps none.
    Length(u64),
    UntilClose,
}

/// What the fields of a head say about the ends of its message and of the connection.
#[derive(Debug, Default)]
pub(super) struct Said {
    length: Option<u64>,
    is_chunked: bool,
    /// The first; a response that has no body by its status is none the worse for it.
    violation: Option<Violation>,
    close: bool,
    keep_alive: bool,
}

// === impl Said ===

impl Said {
    /// Takes note of a field. False if it says what was said before, and need not be kept.
    pub(super) fn note(&mut self, name: &HeaderName, value: &[u8]) -> bool {
        match name.as_str() {
            "connection" => self.note_connection(value),
            "content-length" => return self.note_length(value),
            "transfer-encoding" => self.note_coding(value),
            _ => {}
        }
        true
    }

    fn note_connection(&mut self, value: &[u8]) {
        for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }

    fn note_length(&mut self, value: &[u8]) -> bool {
        let length = parse_length(value);
        if length.is_none() || self.length.is_some() && self.length != length {
            self.violation.get_or_insert(Violation::Length);
        }
        let is_first = self.length.is_none();
        self.length = self.length.or(length);
        is_first
    }

    fn note_coding(&mut self, value: &[u8]) {
        if self.is_chunked || !value.eq_ignore_ascii_case(b"chunked") {
            self.violation.get_or_insert(Violation::Coding);
        }
        self.is_chunked = true;
    }

    /// Whether the connection may serve another request.
    pub(super) fn persists(&self, version: Version) -> bool {
        !self.close && (version == Version::HTTP_11 || self.keep_alive)
    }

    /// How the response with this `status` ends. `to_head`: to a HEAD request.
    pub(super) fn framing(
        &self,
        version: Version,
        status: StatusCode,
        to_head: bool,
    ) -> Result<Framing, Violation> {
        let has_no_body = status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if to_head || has_no_body {
            return Ok(Framing::Length(0));
        }
        if let Some(violation) = self.violation {
            return Err(violation);
        }
        match (self.length, self.is_chunked) {
            (Some(_), true) => Err(Violation::LengthAndCoding),
            // A proxy of that age does not know what it passes on (RFC 9112 §6.1).
            (None, true) if version != Version::HTTP_11 => Err(Violation::Coding),
            (None, true) => Ok(Framing::Chunked(Chunked::default())),
            (Some(length), false) => Ok(Framing::Length(length)),
            (None, false) => Ok(Framing::UntilClose),
        }
    }
}

/// Digits alone: no sign, no list, nothing that `u64` cannot hold.
fn parse_length(value: &[u8]) -> Option<u64> {
    if !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

// === impl Framing ===

impl Framing {
    /// Takes what can be taken from the front of `input` and returns the data in it. Empty if there
    /// is none yet, or no more.
    pub(super) fn decode(&mut self, input: &mut Bytes) -> Result<Bytes, Violation> {
        match self {
            Self::Chunked(chunked) => chunked.decode(input),
            Self::Length(left) => {
                let most = usize::try_from(*left).unwrap_or(usize::MAX);
                let data = input.split_to(most.min(input.len()));
                *left -= data.len() as u64;
                Ok(data)
            }
            Self::UntilClose => Ok(std::mem::take(input)),
        }
    }

    /// Whether all has come. For what ends with the connection nobody can tell.
    pub(super) fn has_ended(&self) -> bool {
        match self {
            Self::Chunked(chunked) => chunked.has_ended(),
            Self::Length(left) => *left == 0,
            Self::UntilClose => false,
        }
    }

    pub(super) fn has_trailers(&self) -> bool {
        matches!(self, Self::Chunked(chunked) if chunked.has_trailers())
    }

    /// What came behind the data, if anything did.
    pub(super) fn take_trailers(&mut self) -> Option<HeaderMap> {
        match self {
            Self::Chunked(chunked) => chunked.take_trailers(),
            Self::Length(_) | Self::UntilClose => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(fields: &[(&'static str, &str)]) -> Said {
        let mut said = Said::default();
        for (name, value) in fields {
            said.note(&HeaderName::from_static(name), value.as_bytes());
        }
        said
    }

    fn framing(fields: &[(&'static str, &str)]) -> Result<Framing, Violation> {
        said(fields).framing(Version::HTTP_11, StatusCode::OK, false)
    }

    const CHUNKED: (&str, &str) = ("transfer-encoding", "Chunked");

    #[test]
    fn a_body_ends_by_its_coding_or_its_length_or_else_with_the_connection() {
        assert_eq!(
            framing(&[CHUNKED]),
            Ok(Framing::Chunked(Chunked::default()))
        );
        assert_eq!(
            framing(&[("content-length", "007")]),
            Ok(Framing::Length(7))
        );
        assert_eq!(framing(&[("date", "now")]), Ok(Framing::UntilClose));
    }

    #[test]
    fn what_has_no_body_ends_at_once_whatever_its_fields_say() {
        let said = said(&[("content-length", "5"), CHUNKED]);
        for status in [100, 103, 204, 304] {
            let status = StatusCode::from_u16(status).unwrap();
            let framing = said.framing(Version::HTTP_11, status, false);
            assert_eq!(framing, Ok(Framing::Length(0)), "{status}");
        }
        let to_head = said.framing(Version::HTTP_11, StatusCode::OK, true);
        assert_eq!(to_head, Ok(Framing::Length(0)));
    }

    #[test]
    fn two_ways_to_end_are_refused_unless_they_are_the_same_length_twice() {
        let length = |value: &'static str| ("content-length", value);
        assert_eq!(framing(&[length("5"), length("5")]), Ok(Framing::Length(5)));
        assert_eq!(framing(&[length("5"), length("6")]), Err(Violation::Length));
        assert_eq!(framing(&[length("x"), length("6")]), Err(Violation::Length));
        let both = Err(Violation::LengthAndCoding);
        assert_eq!(framing(&[length("5"), CHUNKED]), both);
        assert_eq!(framing(&[CHUNKED, length("5")]), both);
        assert_eq!(framing(&[CHUNKED, CHUNKED]), Err(Violation::Coding));
    }

    #[test]
    fn a_length_that_is_no_plain_number_is_refused() {
        for value in ["", "+5", "-1", "5, 5", "5 5", "0x5", "18446744073709551616"] {
            let refused = framing(&[("content-length", value)]);
            assert_eq!(refused, Err(Violation::Length), "{value}");
        }
    }

    #[test]
    fn other_codings_are_refused_and_all_of_them_in_http_1_0() {
        for value in [
            "gzip",
            "gzip, chunked",
            "chunked, chunked",
            "identity",
            "",
            "xchunked",
        ] {
            let refused = framing(&[("transfer-encoding", value)]);
            assert_eq!(refused, Err(Violation::Coding), "{value}");
        }
        let old = said(&[CHUNKED]).framing(Version::HTTP_10, StatusCode::OK, false);
        assert_eq!(old, Err(Violation::Coding));
    }

    #[test]
    fn a_connection_persists_unless_told_otherwise_and_in_http_1_0_only_if_told_so() {
        let persists = |value, version| said(&[("connection", value)]).persists(version);
        for (value, new, old) in [
            ("x", true, false),
            ("Close", false, false),
            ("Keep-Alive", true, true),
            ("keep-alive, close", false, false),
        ] {
            assert_eq!(persists(value, Version::HTTP_11), new, "{value}");
            assert_eq!(persists(value, Version::HTTP_10), old, "{value}");
        }
    }
}
