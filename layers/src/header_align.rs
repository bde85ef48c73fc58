//! Builds the headers an upstream gets to see.
//!
//! [`HeaderAlign`] replaces a request's headers by a list of its own: fields in a fixed order, each
//! with a [`Rule`], then those client headers that are passed by name. Whatever is neither in the
//! list nor passed stays behind. Before that it drops what belongs to the client's connection only
//! (hop-by-hop fields and those named in `Connection`, [RFC 9110 §7.6.1]); the client's own
//! credentials cannot be passed at all.
//!
//! It knows no profile and no provider: the list is data given to the [`HeaderAlignLayer`]. It does
//! not touch responses.
//!
//! # In two parts
//!
//! Layers that keep a copy of each request for a retry copy its headers with it. A [`SetAsideLayer`]
//! outside them leaves the client's headers in the request's [`Progress`], and this layer inside them
//! builds its own from those: the copies in between have none, and cost next to nothing. It is for layers that neither
//! read nor write headers, such as [`RetryOn429`](crate::RetryOn429Layer),
//! [`TokenRefresh`](crate::TokenRefreshLayer) and [`JitterThrottle`](crate::JitterThrottleLayer).
//!
//! # Order laws
//!
//! Outside [`BearerAuth`](crate::BearerAuthLayer), because it strips `Authorization`. A
//! [`Rule::Place`] keeps an empty field where a layer further in will put its value, so that the
//! order on the wire is the profile's.
//!
//! # Examples
//!
//! With defaults, `accept`, `accept-encoding` and `content-type` go through and nothing is added:
//!
//! ```
//! use pacegate_layers::HeaderAlignLayer;
//!
//! let layer = HeaderAlignLayer::default();
//! # let _ = layer;
//! ```
//!
//! Customised:
//!
//! ```
//! use http::{HeaderValue, Request, header};
//! use pacegate_layers::{HeaderAlignLayer, header_align::Rule};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let layer = HeaderAlignLayer::new()
//!     .field(header::ACCEPT, Rule::Set(HeaderValue::from_static("application/json")))
//!     .field(header::USER_AGENT, Rule::SetIfAbsent(HeaderValue::from_static("example/1")))
//!     .pass(header::CONTENT_TYPE)?;
//! let service = layer.layer(service_fn(|request: Request<()>| async move {
//!     Ok::<_, std::convert::Infallible>(request.headers().clone())
//! }));
//!
//! let request = Request::builder()
//!     .header("authorization", "Bearer the-client's-own")
//!     .header("content-type", "application/json")
//!     .body(())?;
//! let seen = service.oneshot(request).await?;
//! assert_eq!(seen.len(), 3);
//! assert_eq!(seen["user-agent"], "example/1");
//! # Ok(())
//! # }
//! ```

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, HeaderName, HeaderValue, Request, header};
use tower_layer::Layer;
use tower_service::Service;

mod set_aside;

pub use self::set_aside::{SetAside, SetAsideLayer};

use crate::progress::Progress;

/// Applies [`HeaderAlign`]; see the [module documentation](self).
#[derive(Clone, Debug)]
pub struct HeaderAlignLayer {
    fields: Vec<(HeaderName, Rule)>,
    pass: Vec<HeaderName>,
}

/// Builds the headers of each request anew; see the [module documentation](self).
#[derive(Clone, Debug)]
pub struct HeaderAlign<S> {
    inner: S,
    plan: Arc<Plan>,
}

/// What to build, with everything decided that no request has a say in.
#[derive(Debug)]
struct Plan {
    /// The fields before the first that depends on the client: a copy of a map costs a third of what
    /// it costs to build one.
    fixed: HeaderMap,
    /// The other fields.
    fields: Vec<(HeaderName, Rule)>,
    pass: Vec<HeaderName>,
}

/// What is sent in one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// This list if the client offered every member of it, else the client's own value. For
    /// `Accept-Encoding`: an answer passes undecoded, so only what the client can read may be
    /// asked for.
    Narrow(HeaderValue),
    /// An empty value that a layer further in, or the HTTP client, replaces.
    Place,
    /// This value, whatever the client sent.
    Set(HeaderValue),
    /// The client's value, or this one if it sent none.
    SetIfAbsent(HeaderValue),
}

/// A header that must never be passed on from a client.
#[derive(Debug, thiserror::Error)]
#[error("{0} belongs to the client's own connection or account and is never passed on")]
pub struct NotPassable(pub HeaderName);

/// Fields that describe one connection, not the message ([RFC 9110 §7.6.1], and
/// [RFC 9112 appendix C.2.2] for `proxy-connection`).
///
/// [RFC 9110 §7.6.1]: https://www.rfc-editor.org/rfc/rfc9110#section-7.6.1
/// [RFC 9112 appendix C.2.2]: https://www.rfc-editor.org/rfc/rfc9112#appendix-C.2.2
static HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// What a client proves itself with, and what the HTTP client below writes itself.
static OWN: [HeaderName; 6] = [
    HeaderName::from_static("api-key"),
    header::AUTHORIZATION,
    header::CONTENT_LENGTH,
    header::COOKIE,
    header::HOST,
    HeaderName::from_static("x-api-key"),
];

/// Removes hop-by-hop fields and every field named in `Connection`.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| HeaderName::try_from(name.trim()).ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    remove_all(headers, &HOP_BY_HOP);
}

/// Removes every field named in `names`. Most requests have none of them, and one look at each field
/// costs less than a search for each name.
fn remove_all(headers: &mut HeaderMap, names: &[HeaderName]) {
    let there: Vec<_> = headers
        .keys()
        .filter(|name| names.contains(name))
        .cloned()
        .collect();
    for name in there {
        headers.remove(name);
    }
}

// === impl HeaderAlignLayer ===

impl HeaderAlignLayer {
    /// Sends nothing and passes nothing until told to.
    #[must_use]
    pub fn new() -> Self {
        Self {
            fields: Vec::new(),
            pass: Vec::new(),
        }
    }

    /// Sends `name` by `rule`, after the fields given before. The last rule for a name wins and
    /// keeps the first one's place.
    #[must_use]
    pub fn field(mut self, name: HeaderName, rule: Rule) -> Self {
        match self.fields.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = rule,
            None => self.fields.push((name, rule)),
        }
        self
    }

    /// Lets the client's `name` through where no field says otherwise.
    ///
    /// # Errors
    ///
    /// [`NotPassable`] for hop-by-hop fields, credentials, `host` and `content-length`.
    pub fn pass(mut self, name: HeaderName) -> Result<Self, NotPassable> {
        if HOP_BY_HOP.contains(&name) || OWN.contains(&name) {
            return Err(NotPassable(name));
        }
        self.pass.push(name);
        Ok(self)
    }

    /// A client's value for what is never passed on counts as none, and what a field decides need not
    /// be passed.
    fn plan(&self) -> Plan {
        let is_own = |name: &HeaderName| HOP_BY_HOP.contains(name) || OWN.contains(name);
        let mut plan = Plan {
            fixed: HeaderMap::new(),
            fields: Vec::new(),
            pass: Vec::new(),
        };
        for (name, rule) in &self.fields {
            let value = match rule {
                Rule::Narrow(_) if is_own(name) => continue,
                Rule::SetIfAbsent(value) if is_own(name) => value,
                Rule::Place => &HeaderValue::from_static(""),
                Rule::Set(value) => value,
                Rule::Narrow(_) | Rule::SetIfAbsent(_) => {
                    plan.fields.push((name.clone(), rule.clone()));
                    continue;
                }
            };
            if plan.fields.is_empty() {
                plan.fixed.insert(name, value.clone());
            } else {
                plan.fields.push((name.clone(), Rule::Set(value.clone())));
            }
        }
        for name in &self.pass {
            let is_field = self.fields.iter().any(|(field, _)| field == name);
            if !is_field && !plan.pass.contains(name) {
                plan.pass.push(name.clone());
            }
        }
        plan
    }
}

impl Default for HeaderAlignLayer {
    fn default() -> Self {
        Self {
            fields: Vec::new(),
            pass: vec![
                header::ACCEPT,
                header::ACCEPT_ENCODING,
                header::CONTENT_TYPE,
            ],
        }
    }
}

impl<S> Layer<S> for HeaderAlignLayer {
    type Service = HeaderAlign<S>;

    fn layer(&self, inner: S) -> Self::Service {
        HeaderAlign {
            inner,
            plan: Arc::new(self.plan()),
        }
    }
}

// === impl Plan ===

impl Plan {
    fn align(&self, client: &HeaderMap) -> HeaderMap {
        // Most connections say nothing that the fields below would have to look out for.
        if client.contains_key(header::CONNECTION) {
            let mut stripped = client.clone();
            strip_hop_by_hop(&mut stripped);
            return self.align(&stripped);
        }
        let mut aligned = self.fixed.clone();
        for (name, rule) in &self.fields {
            let value = match rule {
                Rule::Narrow(list) if offers_all(client, name, list) => list.clone(),
                Rule::Narrow(_) => {
                    append_all(&mut aligned, client, name);
                    continue;
                }
                Rule::Place => HeaderValue::from_static(""),
                Rule::Set(value) => value.clone(),
                Rule::SetIfAbsent(_) if append_all(&mut aligned, client, name) => continue,
                Rule::SetIfAbsent(value) => value.clone(),
            };
            aligned.insert(name, value);
        }
        for name in &self.pass {
            append_all(&mut aligned, client, name);
        }
        aligned
    }
}

// === impl HeaderAlign ===

impl<S, B> Service<Request<B>> for HeaderAlign<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let progress = request.extensions().get::<Progress>();
        let aligned = match progress.and_then(Progress::aside) {
            Some(client) if request.headers().is_empty() => self.plan.align(client),
            _ => self.plan.align(request.headers()),
        };
        *request.headers_mut() = aligned;
        self.inner.call(request)
    }
}

/// Whether there was anything to append.
fn append_all(to: &mut HeaderMap, from: &HeaderMap, name: &HeaderName) -> bool {
    let mut values = from.get_all(name).iter().peekable();
    let there = values.peek().is_some();
    for value in values {
        to.append(name, value.clone());
    }
    there
}

/// Whether the client's lists under `name` hold every member of `list`. A member that the client
/// refuses with `q=0` is not offered.
fn offers_all(client: &HeaderMap, name: &HeaderName, list: &HeaderValue) -> bool {
    let offers = |member: &[u8]| {
        let values = client.get_all(name).iter();
        let mut offered = values.flat_map(members).filter_map(offered);
        offered.any(|offered| offered.eq_ignore_ascii_case(member))
    };
    members(list).filter_map(offered).all(offers)
}

fn members(list: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    list.as_bytes().split(|byte| *byte == b',')
}

/// The name of a list member, unless its weight is zero ([RFC 9110 §12.4.2]).
///
/// [RFC 9110 §12.4.2]: https://www.rfc-editor.org/rfc/rfc9110#section-12.4.2
fn offered(member: &[u8]) -> Option<&[u8]> {
    let mut parts = member.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let name = parts.next().filter(|name| !name.is_empty())?;
    let refused = parts
        .filter_map(|part| part.split_at_checked(2))
        .filter(|(key, _)| key.eq_ignore_ascii_case(b"q="))
        .any(|(_, weight)| {
            std::str::from_utf8(weight).is_ok_and(|weight| weight.parse() == Ok(0.0_f32))
        });
    (!refused).then_some(name)
}

#[cfg(test)]
mod tests;
