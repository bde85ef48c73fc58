//! Builds the headers that an upstream sees.
//!
//! In comes a request with the client's headers; [`HeaderAlign`] passes it to the inner service
//! with headers of its own and returns the response unchanged. The new headers are a list in a
//! fixed order, each with a [`Rule`], then those client headers that are passed by name. All others
//! are dropped, first of all those of the client's connection: hop-by-hop headers and those named
//! in `Connection` ([RFC 9110 §7.6.1]). The client's own credentials cannot be passed at all.
//!
//! It knows no profile and no provider: the list is data given to the [`HeaderAlignLayer`].
//!
//! The [`HeaderMap`] keeps the list's order as long as no layer further in removes a header:
//! `HeaderMap::remove` moves the last one into the gap.
//!
//! [RFC 9110 §7.6.1]: https://www.rfc-editor.org/rfc/rfc9110#section-7.6.1
//!
//! # Ordering
//!
//! Outside [`BearerAuth`](crate::BearerAuthLayer), because it strips `Authorization`. A
//! [`Rule::Place`] keeps an empty header where a layer further in puts its value, so that the order
//! on the wire is the list's. Inside [`JitterThrottle`](crate::JitterThrottleLayer), because
//! headers need not be built before the request leaves.
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

/// Applies [`HeaderAlign`]; see the [module documentation](self).
#[derive(Clone, Debug)]
pub struct HeaderAlignLayer {
    template: HeaderTemplate,
}

/// Builds the headers of each request; see the [module documentation](self).
#[derive(Clone, Debug)]
pub struct HeaderAlign<S> {
    inner: S,
    template: Arc<HeaderTemplate>,
}

/// Which value a header has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// This list if the client offered every member of it, else the client's own value. For
    /// `Accept-Encoding`: a response passes undecoded, so only codings that the client can read may
    /// be requested.
    Narrow(HeaderValue),
    /// An empty value that a layer further in, or the HTTP client, replaces. hyper-util's client
    /// does not replace an empty `host`.
    Place,
    /// This value, whatever the client sent.
    Set(HeaderValue),
    /// The client's value, or this one if it sent none.
    SetIfAbsent(HeaderValue),
}

/// The headers to send, in order.
#[derive(Clone, Debug, Default)]
struct HeaderTemplate {
    /// No name occurs twice.
    fields: Vec<(HeaderName, Rule)>,
    pass: Vec<HeaderName>,
}

/// A header that must never be passed from a client.
#[derive(Debug, thiserror::Error)]
#[error("{0} belongs to the client's own connection or account and is never passed on")]
pub struct NotPassable(pub HeaderName);

/// Headers that describe one connection, not the message ([RFC 9110 §7.6.1], and
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

/// The client's credentials, and the headers that the HTTP client below sets itself.
static RESERVED: [HeaderName; 6] = [
    HeaderName::from_static("api-key"),
    header::AUTHORIZATION,
    header::CONTENT_LENGTH,
    header::COOKIE,
    header::HOST,
    HeaderName::from_static("x-api-key"),
];

/// Whether `name` describes one connection, not the message.
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(name)
}

/// Whether no value of the client's for `name` is ever sent on: hop-by-hop headers, credentials, and
/// headers that the HTTP client sets itself.
pub fn is_never_passed(name: &HeaderName) -> bool {
    is_hop_by_hop(name) || RESERVED.contains(name)
}

/// Removes hop-by-hop headers and every header named in `Connection`. The others keep their order.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named = named_in_connection(headers);
    let stays = |name: &HeaderName| !is_hop_by_hop(name) && !named.contains(name);
    if headers.keys().all(stays) {
        return;
    }
    let fields = std::mem::take(headers);
    let staying = fields.iter().filter(|(name, _)| stays(name));
    headers.extend(staying.map(|(name, value)| (name.clone(), value.clone())));
}

fn named_in_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let options = headers.get_all(header::CONNECTION).iter();
    options
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .collect()
}

// === impl HeaderAlignLayer ===

impl HeaderAlignLayer {
    /// Sends and passes no header until configured.
    #[must_use]
    pub fn new() -> Self {
        Self {
            template: HeaderTemplate::default(),
        }
    }

    /// Sends `name` by `rule`, after the headers given before. The last rule for a name wins, in
    /// the position of the first one.
    #[must_use]
    pub fn field(mut self, name: HeaderName, rule: Rule) -> Self {
        let fields = &mut self.template.fields;
        match fields.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = rule,
            None => fields.push((name, rule)),
        }
        self
    }

    /// Passes the client's `name` where no rule decides otherwise.
    ///
    /// # Errors
    ///
    /// [`NotPassable`] for hop-by-hop headers, credentials, `host` and `content-length`.
    pub fn pass(mut self, name: HeaderName) -> Result<Self, NotPassable> {
        if is_never_passed(&name) {
            return Err(NotPassable(name));
        }
        self.template.pass.push(name);
        Ok(self)
    }
}

impl Default for HeaderAlignLayer {
    fn default() -> Self {
        let pass = vec![
            header::ACCEPT,
            header::ACCEPT_ENCODING,
            header::CONTENT_TYPE,
        ];
        Self {
            template: HeaderTemplate {
                fields: Vec::new(),
                pass,
            },
        }
    }
}

impl<S> Layer<S> for HeaderAlignLayer {
    type Service = HeaderAlign<S>;

    fn layer(&self, inner: S) -> Self::Service {
        HeaderAlign {
            inner,
            template: Arc::new(self.template.clone()),
        }
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
        *request.headers_mut() = self.template.align(request.headers());
        self.inner.call(request)
    }
}

// === impl HeaderTemplate ===

impl HeaderTemplate {
    /// The headers to send, given those of a client. It only appends: removing a header from a
    /// [`HeaderMap`] moves the last one into its place.
    fn align(&self, client: &HeaderMap) -> HeaderMap {
        let named = named_in_connection(client);
        // A client's value for a header that is never passed counts as absent.
        let theirs = |name: &HeaderName| -> Vec<&HeaderValue> {
            if is_never_passed(name) || named.contains(name) {
                return Vec::new();
            }
            client.get_all(name).iter().collect()
        };
        let mut aligned = HeaderMap::with_capacity(self.fields.len() + self.pass.len());
        for (name, rule) in &self.fields {
            let theirs = theirs(name);
            let values: &[&HeaderValue] = match rule {
                Rule::Narrow(list) if offers(&theirs, list) => &[list],
                Rule::Place => &[&EMPTY],
                Rule::Set(value) => &[value],
                Rule::SetIfAbsent(value) if theirs.is_empty() => &[value],
                Rule::Narrow(_) | Rule::SetIfAbsent(_) => &theirs,
            };
            append(&mut aligned, name, values);
        }
        for name in &self.pass {
            if !aligned.contains_key(name) {
                append(&mut aligned, name, &theirs(name));
            }
        }
        aligned
    }
}

static EMPTY: HeaderValue = HeaderValue::from_static("");

fn append(to: &mut HeaderMap, name: &HeaderName, values: &[&HeaderValue]) {
    for value in values {
        to.append(name, (*value).clone());
    }
}

/// Whether the client's lists contain every member of `wanted`. A member with `q=0` is not offered.
fn offers(client: &[&HeaderValue], wanted: &HeaderValue) -> bool {
    members(wanted).all(|wanted| {
        let mut offered = client.iter().flat_map(|list| members(list));
        offered.any(|member| member.eq_ignore_ascii_case(wanted))
    })
}

/// The members of a list, without those whose weight is zero ([RFC 9110 §12.4.2]).
///
/// [RFC 9110 §12.4.2]: https://www.rfc-editor.org/rfc/rfc9110#section-12.4.2
fn members(list: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    let members = list.as_bytes().split(|byte| *byte == b',');
    members.filter_map(|member| {
        let mut params = member.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let name = params.next().filter(|name| !name.is_empty())?;
        let refused = params
            .filter_map(|param| param.split_at_checked(2))
            .filter(|(key, _)| key.eq_ignore_ascii_case(b"q="))
            .any(|(_, weight)| {
                std::str::from_utf8(weight).is_ok_and(|weight| weight.parse() == Ok(0.0_f32))
            });
        (!refused).then_some(name)
    })
}

#[cfg(test)]
mod tests;
