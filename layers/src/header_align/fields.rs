//! The fields of a request as they go out.

use http::{HeaderMap, HeaderName, HeaderValue, Request};

use super::{deferred::Aside, plan::replace};
use crate::progress::Progress;

/// The fields that a request goes out with; see [`fields`].
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    aside: Option<&'a Aside>,
    headers: &'a HeaderMap,
}

/// One or more of the fields of a request.
#[derive(Clone, Copy, Debug)]
pub enum Part<'a> {
    /// One field.
    Field(&'a HeaderName, &'a HeaderValue),
    /// Field lines as they stand in a message of HTTP/1.1 ([RFC 9112 §5]), each with its line end.
    ///
    /// None of them is a hop-by-hop field, a credential, `host` or `content-length`.
    ///
    /// [RFC 9112 §5]: https://www.rfc-editor.org/rfc/rfc9112#section-5
    Lines(&'a [u8]),
}

/// What `request` goes out with: its headers, or, where a [`DeferredLayer`](super::DeferredLayer) has
/// taken those off, what its list makes of them and of what layers further in have set since.
pub fn fields<B>(request: &Request<B>) -> Fields<'_> {
    Fields {
        aside: request.extensions().get().and_then(Progress::aside),
        headers: request.headers(),
    }
}

/// Puts the [`fields`] of `request` into its headers, for a client that looks for them there.
pub fn settle<B>(request: &mut Request<B>) {
    let Fields { aside, headers } = fields(request);
    let Some(aside) = aside else {
        return;
    };
    let settled = build(aside, headers);
    *request.headers_mut() = settled;
    if let Some(progress) = request.extensions_mut().get_mut::<Progress>() {
        progress.forget_aside();
    }
}

// === impl Fields ===

impl Fields<'_> {
    /// Hands every field to `write`, in their order; those that have been worked out before, several at
    /// once.
    pub fn parts(self, mut write: impl FnMut(Part<'_>)) {
        let headers = self.headers;
        match self.aside {
            None => each(headers, write),
            Some(Aside { plan, client }) if plan.is_simple(client, headers) => {
                plan.parts(client, headers, &mut write);
            }
            Some(aside) => each(&build(aside, headers), write),
        }
    }
}

/// All fields, those of `inner` instead of what the list has for their names.
fn build(aside: &Aside, inner: &HeaderMap) -> HeaderMap {
    let mut fields = aside.plan.align(&aside.client);
    for name in inner.keys() {
        replace(&mut fields, name, &inner.get_all(name));
    }
    fields
}

fn each(headers: &HeaderMap, mut write: impl FnMut(Part<'_>)) {
    for (name, value) in headers {
        write(Part::Field(name, value));
    }
}
