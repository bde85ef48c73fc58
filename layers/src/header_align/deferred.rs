//! Leaves the fields of a request to be built by who writes them.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, Request};
use tower_layer::Layer;
use tower_service::Service;

use super::{HeaderAlignLayer, plan::Plan};
use crate::progress::Progress;

/// Applies [`Deferred`]; see the [module documentation](super#deferred).
#[derive(Clone, Debug)]
pub struct DeferredLayer {
    plan: Arc<Plan>,
}

/// Takes the headers off a request and leaves in its [`Progress`] what [`fields`](super::fields)
/// makes of them; see the [module documentation](super#deferred).
#[derive(Clone, Debug)]
pub struct Deferred<S> {
    inner: S,
    plan: Arc<Plan>,
}

/// A client's headers, and what is to be made of them.
pub(crate) struct Aside {
    pub(super) plan: Arc<Plan>,
    pub(super) client: HeaderMap,
}

// === impl DeferredLayer ===

impl DeferredLayer {
    pub(super) fn new(layer: &HeaderAlignLayer) -> Self {
        Self {
            plan: Arc::new(Plan::new(layer)),
        }
    }
}

impl<S> Layer<S> for DeferredLayer {
    type Service = Deferred<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Deferred {
            inner,
            plan: Arc::clone(&self.plan),
        }
    }
}

// === impl Deferred ===

impl<S, B> Service<Request<B>> for Deferred<S>
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
        let client = std::mem::take(request.headers_mut());
        let plan = Arc::clone(&self.plan);
        let progress: &mut Progress = request.extensions_mut().get_or_insert_default();
        progress.set_aside(Aside { plan, client });
        self.inner.call(request)
    }
}

// === impl Aside ===

impl fmt::Debug for Aside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A client's headers hold its credentials.
        f.debug_struct("Aside").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use http::{HeaderName, HeaderValue, Response, StatusCode, header};
    use proptest::{collection::vec, prelude::*, sample::select};
    use tokio::sync::mpsc;
    use tower::{ServiceBuilder, ServiceExt, service_fn};

    use super::super::{Part, Rule, fields, settle};
    use super::*;
    use crate::{BearerAuthLayer, RetryOn429Layer, error::BoxError, token::StaticToken};

    #[tokio::test(start_paused = true)]
    async fn every_try_goes_out_with_what_would_have_been_built_for_it() {
        let (tell, mut told) = mpsc::unbounded_channel();
        let tries = Arc::new(AtomicUsize::new(0));
        let refuses_the_first = service_fn(move |request: Request<()>| {
            tell.send(written(&request)).unwrap();
            let mut response = Response::new(String::new());
            if tries.fetch_add(1, Ordering::Relaxed) == 0 {
                *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
            }
            async { Ok::<_, BoxError>(response) }
        });
        let agent = Rule::SetIfAbsent(HeaderValue::from_static("own"));
        let align = HeaderAlignLayer::default()
            .field(header::AUTHORIZATION, Rule::Place)
            .field(header::USER_AGENT, agent);
        let bearer = BearerAuthLayer::new(StaticToken::new("ours").unwrap());
        let deferred = ServiceBuilder::new()
            .layer(align.deferred())
            .layer(RetryOn429Layer::default())
            .layer(bearer.clone())
            .service(refuses_the_first.clone());
        let whole = ServiceBuilder::new()
            .layer(align)
            .layer(bearer)
            .service(refuses_the_first);
        let request = || {
            let request = Request::builder()
                .header("accept", "a")
                .header("accept", "b");
            let request = request.header("authorization", "theirs");
            request.header("cookie", "c").body(()).unwrap()
        };
        let response = deferred.oneshot(request()).await.unwrap();
        assert!(response.status().is_success());
        whole.oneshot(request()).await.unwrap();
        let [first, second, whole] = [(); 3].map(|()| told.try_recv().unwrap());
        assert_eq!(
            whole,
            "authorization: Bearer ours\r\nuser-agent: own\r\naccept: a\r\naccept: b\r\n"
        );
        assert_eq!((&first, &second), (&whole, &whole));
    }

    #[test]
    fn neither_the_layer_nor_a_request_tells_what_a_client_has_sent() {
        let align = HeaderAlignLayer::default().deferred();
        let service = align.layer(service_fn(async |request: Request<()>| {
            let progress: Option<&Progress> = request.extensions().get();
            assert!(!format!("{progress:?}").contains("canary"));
            Ok::<_, Infallible>(())
        }));
        let request = Request::get("/").header("authorization", "canary");
        let answer = service.oneshot(request.body(()).unwrap());
        tokio_test::block_on(answer).unwrap();
    }

    /// What a client writes that takes every part as it comes.
    fn written(request: &Request<()>) -> String {
        let mut text = Vec::new();
        fields(request).parts(|part| match part {
            Part::Lines(lines) => text.extend_from_slice(lines),
            Part::Field(name, value) => {
                for piece in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                    text.extend_from_slice(piece);
                }
            }
        });
        String::from_utf8(text).unwrap()
    }

    fn name() -> impl Strategy<Value = HeaderName> {
        let names: &[_] = &["accept", "authorization", "cookie", "host", "x-a", "x-b"];
        select(names).prop_map(HeaderName::from_static)
    }

    fn value() -> impl Strategy<Value = HeaderValue> {
        let values: &[_] = &["", "a", "b", "a, b", "b;q=0, a"];
        select(values).prop_map(HeaderValue::from_static)
    }

    fn rule() -> impl Strategy<Value = Rule> {
        prop_oneof![
            value().prop_map(Rule::Narrow),
            Just(Rule::Place),
            value().prop_map(Rule::Set),
            value().prop_map(Rule::SetIfAbsent),
        ]
    }

    fn layer() -> impl Strategy<Value = HeaderAlignLayer> {
        (vec((name(), rule()), 0..6), vec(name(), 0..3)).prop_map(|(fields, pass)| {
            let layer = fields
                .into_iter()
                .fold(HeaderAlignLayer::new(), |layer, (name, rule)| {
                    layer.field(name, rule)
                });
            pass.into_iter().fold(layer, |layer, name| {
                layer.clone().pass(name).unwrap_or(layer)
            })
        })
    }

    fn headers() -> impl Strategy<Value = HeaderMap> {
        let connection = select(&["close", "x-a", "Keep-Alive", "close, accept"][..])
            .prop_map(|value| (header::CONNECTION, HeaderValue::from_static(value)));
        let field = prop_oneof![5 => (name(), value()), 1 => connection];
        vec(field, 0..8).prop_map(|fields| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(name, value);
            }
            headers
        })
    }

    proptest! {
        #[test]
        fn deferred_or_not_the_same_goes_out(
            layer in layer(),
            client in headers(),
            inner in vec((name(), value()), 0..3),
        ) {
            let sets = service_fn(move |mut request: Request<()>| {
                for (name, value) in &inner {
                    request.headers_mut().insert(name, value.clone());
                }
                std::future::ready(Ok::<_, Infallible>(request))
            });
            let request = || {
                let mut request = Request::new(());
                *request.headers_mut() = client.clone();
                request
            };
            let whole = layer.layer(sets.clone()).oneshot(request());
            let whole = written(&tokio_test::block_on(whole).unwrap());
            let service = layer.deferred().layer(sets);
            // The second finds what the first has left behind.
            for _ in 0..2 {
                let deferred = service.clone().oneshot(request());
                let mut deferred = tokio_test::block_on(deferred).unwrap();
                prop_assert_eq!(&written(&deferred), &whole);
                settle(&mut deferred);
                prop_assert_eq!(&written(&deferred), &whole);
            }
        }
    }
}
