//! How large the head of a request may be.

use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use tower::{BoxError, filter::Predicate};

use crate::config::Limits;

/// Measures a head as it came in, before anything is added; its verdict is a request's extension.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadSize {
    fields: usize,
    header: usize,
    target: usize,
}

/// Lets a request pass without that verdict.
#[derive(Clone, Copy, Debug)]
pub(super) struct NotTooLarge;

/// What of a head is too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TooLarge {
    #[error("the request has more header fields than limits.max-header-fields allows ({0})")]
    Fields(usize),
    #[error("the request's header is larger than limits.max-header-size allows ({0})")]
    Header(bytesize::ByteSize),
    #[error("the request target is longer than limits.max-target allows ({0})")]
    Target(bytesize::ByteSize),
}

// === impl TooLarge ===

impl TooLarge {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::Fields(_) | Self::Header(_) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Target(_) => StatusCode::URI_TOO_LONG,
        }
    }
}

// === impl HeadSize ===

impl HeadSize {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            fields: limits.max_header_fields,
            header: limits.max_header_size,
            target: limits.max_target,
        }
    }

    pub(super) fn refuses<B>(&self, request: &Request<B>) -> Option<TooLarge> {
        let size = |bytes| bytesize::ByteSize(bytes as u64);
        // In absolute form a little less than was sent, but the rest is a host on the list.
        let target = request.uri().path_and_query();
        if target.is_some_and(|target| target.as_str().len() > self.target) {
            return Some(TooLarge::Target(size(self.target)));
        }
        if request.headers().len() > self.fields {
            return Some(TooLarge::Fields(self.fields));
        }
        let large = header_size(request.headers()) > self.header;
        large.then(|| TooLarge::Header(size(self.header)))
    }
}

/// As it is written by most: `name: value` and a line end.
fn header_size(headers: &HeaderMap) -> usize {
    let field = |(name, value): (&HeaderName, &HeaderValue)| {
        name.as_str().len() + value.len() + ": \r\n".len()
    };
    headers.iter().map(field).sum()
}

// === impl NotTooLarge ===

impl<B> Predicate<Request<B>> for NotTooLarge {
    type Request = Request<B>;

    fn check(&mut self, request: Request<B>) -> Result<Request<B>, BoxError> {
        match request.extensions().get::<TooLarge>() {
            Some(refused) => Err((*refused).into()),
            None => Ok(request),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(target: usize, fields: usize, header: usize) -> Option<TooLarge> {
        let limit = HeadSize {
            fields: 64,
            header: 32 * 1024,
            target: 8 * 1024,
        };
        let mut request = Request::get(format!("/{}", "t".repeat(target - 1)));
        for number in 1..fields {
            request = request.header(format!("x-{number:03}"), "");
        }
        let rest = header - (fields - 1) * 9 - "x-large: \r\n".len();
        let request = request
            .header("x-large", "v".repeat(rest))
            .body(())
            .unwrap();
        limit.refuses(&request)
    }

    #[test]
    fn the_largest_head_passes_and_anything_more_is_refused() {
        let (target, fields, header) = (8 * 1024, 64, 32 * 1024);
        assert_eq!(check(target, fields, header), None);
        let kib = bytesize::ByteSize::kib;
        assert_eq!(
            check(target + 1, fields, header),
            Some(TooLarge::Target(kib(8)))
        );
        assert_eq!(
            check(target, fields + 1, header),
            Some(TooLarge::Fields(64))
        );
        assert_eq!(
            check(target, fields, header + 1),
            Some(TooLarge::Header(kib(32)))
        );
    }
}
