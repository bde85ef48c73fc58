//! The head of a response, as it comes over the wire.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version};
use httparse::{ParserConfig, Status};
use hyper::ext::ReasonPhrase;

use super::{
    Violation,
    framing::{Framing, Said},
};

/// More than any server has reasons to send.
const MAX_FIELDS: usize = 100;

/// For what the gateway says of an answer: a map that grows is built anew.
const ROOM: usize = 4;

/// A head, and what it says about what follows.
#[derive(Debug)]
pub(super) struct ResponseHead {
    pub(super) response: Response<()>,
    pub(super) framing: Framing,
    /// Whether the connection may serve another request.
    pub(super) persists: bool,
    /// How much of the wire it took.
    pub(super) size: usize,
}

/// Takes a head from the front of `unread`; `None` if it is not there in full. `to_head`: the answer
/// to a HEAD request.
pub(super) fn take(unread: &mut Bytes, to_head: bool) -> Result<Option<ResponseHead>, Violation> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let parsing = ParserConfig::default().parse_response_with_uninit_headers(
        &mut parsed,
        unread,
        &mut fields,
    );
    let Status::Complete(size) = parsing.map_err(Violation::Head)? else {
        return Ok(None);
    };
    let broken = Violation::Head(httparse::Error::Status);
    let status = StatusCode::from_u16(parsed.code.unwrap_or_default()).map_err(|_| broken)?;
    let version = match parsed.version {
        Some(1) => Version::HTTP_11,
        _ => Version::HTTP_10,
    };
    let mut said = Said::default();
    let mut headers = HeaderMap::with_capacity(parsed.headers.len() + ROOM);
    for field in &*parsed.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes())
            .map_err(|_| Violation::Head(httparse::Error::HeaderName))?;
        if said.note(&name, field.value) {
            let value = HeaderValue::from_maybe_shared(unread.slice_ref(field.value))
                .map_err(|_| Violation::Head(httparse::Error::HeaderValue))?;
            headers.append(name, value);
        }
    }
    let mut response = Response::new(());
    if let Some(reason) = parsed.reason
        && parsed.reason != status.canonical_reason()
        && let Ok(reason) = ReasonPhrase::try_from(reason.to_owned())
    {
        response.extensions_mut().insert(reason);
    }
    *response.status_mut() = status;
    *response.version_mut() = version;
    *response.headers_mut() = headers;
    let head = ResponseHead {
        framing: said.framing(version, status, to_head)?,
        persists: said.persists(version),
        response,
        size,
    };
    unread.advance(size);
    if unread.is_empty() {
        // Even an empty rest would keep all that was read.
        *unread = Bytes::new();
    }
    Ok(Some(head))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(text: &str) -> Result<Option<ResponseHead>, Violation> {
        take(&mut Bytes::copy_from_slice(text.as_bytes()), false)
    }

    #[test]
    fn a_head_is_taken_in_full_and_what_follows_stays() {
        let text = "HTTP/1.1 404 Nope\r\nA: 1\r\nb:\t2 \r\na: 3\r\nContent-Length: 4\r\n\r\nbody";
        for end in 0..text.find("body").unwrap() {
            assert!(taken(&text[..end]).unwrap().is_none(), "{end}");
        }
        let mut unread = Bytes::from(text);
        let head = take(&mut unread, false).unwrap().unwrap();
        assert_eq!(unread, "body");
        assert_eq!(head.size, text.len() - 4);
        assert_eq!(head.framing, Framing::Length(4));
        assert!(head.persists);
        let response = head.response;
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        let fields: Vec<_> = response
            .headers()
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        let expected = [("a", "1"), ("a", "3"), ("b", "2"), ("content-length", "4")];
        assert_eq!(fields, expected);
        let reason = response.extensions().get::<ReasonPhrase>().unwrap();
        assert_eq!(reason.as_bytes(), b"Nope");
    }

    #[test]
    fn an_equal_length_is_kept_once_and_a_usual_reason_not_at_all() {
        let head = taken("HTTP/1.0 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\n");
        let head = head.unwrap().unwrap();
        assert_eq!(
            head.response
                .headers()
                .get_all("content-length")
                .iter()
                .count(),
            1
        );
        assert!(head.response.extensions().get::<ReasonPhrase>().is_none());
        assert_eq!(head.response.version(), Version::HTTP_10);
        assert!(!head.persists);
    }

    #[test]
    fn what_is_no_head_is_refused() {
        for text in [
            "SSH-2.0-OpenSSH_9\r\n\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.1 99 Low\r\n\r\n",
            "HTTP/1.1 099 Low\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno field\r\n\r\n",
            "HTTP/1.1 200 OK\r\na b: c\r\n\r\n",
            "HTTP/1.1 200 OK\r\na : c\r\n\r\n",
            "HTTP/1.1 200 OK\r\n: c\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\r\n folded\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: \u{1}\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\rc: d\r\n\r\n",
            "HTTP/1.1 200 OK\r\n a: b\r\n\r\n",
        ] {
            assert!(matches!(taken(text), Err(Violation::Head(_))), "{text:?}");
        }
        let many = format!(
            "HTTP/1.1 200 OK\r\n{}\r\n",
            "a: b\r\n".repeat(MAX_FIELDS + 1)
        );
        let too_many = Violation::Head(httparse::Error::TooManyHeaders);
        assert_eq!(taken(&many).unwrap_err(), too_many);
    }
}
