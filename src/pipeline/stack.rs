//! The layers of an upstream and the two ways to put them around its client.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full};
use pacegate_layers::{
    BearerAuthLayer, HeaderAlignLayer, JitterThrottleLayer, RetryOn429Layer, TokenRefreshLayer,
    error::BoxError,
    header_align::{NotPassable, Rule},
    jitter_throttle::{Gate, PermitBody},
    retry_on_429::PeekedBody,
    token::TokenSource,
};
use tower::{
    Layer, Service, ServiceBuilder, ServiceExt,
    util::{Either, MapResponseLayer, option_layer},
};

use super::{PipelineError, SharedService};
use crate::{
    config::{self, HeaderRule, LayerName},
    upstream::dialect::DialectClassifier,
};

/// The layers that are listed, with their settings.
pub(super) struct Stack {
    header_align: Option<HeaderAlignLayer>,
    retry_on_429: Option<RetryOn429Layer<DialectClassifier>>,
    token_refresh: Option<TokenRefreshLayer<Arc<dyn TokenSource>>>,
    jitter_throttle: Option<JitterThrottleLayer>,
    bearer_auth: Option<BearerAuthLayer<Arc<dyn TokenSource>>>,
    listed: Vec<LayerName>,
}

impl Stack {
    /// The layers of `upstream`, which take their turns at `gate` and their tokens from `source`.
    pub(super) fn new(
        upstream: &config::Upstream,
        gate: Option<&Gate>,
        source: Option<Arc<dyn TokenSource>>,
    ) -> Result<Self, PipelineError> {
        let listed = upstream.pipeline.clone();
        let token_for = |layer| match &source {
            Some(source) => Ok(Arc::clone(source)),
            None => Err(PipelineError::NoToken(layer)),
        };
        let mut stack = Self {
            header_align: None,
            retry_on_429: None,
            token_refresh: None,
            jitter_throttle: None,
            bearer_auth: None,
            listed,
        };
        for name in &upstream.pipeline {
            match name {
                LayerName::HeaderAlign => stack.header_align = Some(header_align(upstream)?),
                LayerName::RetryOn429 => stack.retry_on_429 = Some(retry_on_429(upstream, gate)),
                LayerName::TokenRefresh => {
                    let statuses = upstream.dialect.refresh_on.iter();
                    let statuses = statuses.map(|status| status.as_u16());
                    let layer = TokenRefreshLayer::new(token_for(*name)?).refresh_on(statuses);
                    stack.token_refresh = Some(layer);
                }
                LayerName::JitterThrottle => {
                    stack.jitter_throttle = gate.cloned().map(JitterThrottleLayer::new);
                }
                LayerName::BearerAuth => {
                    stack.bearer_auth = Some(BearerAuthLayer::new(token_for(*name)?));
                }
            }
        }
        Ok(stack)
    }

    /// Puts the layers around `client`, in the order listed.
    pub(super) fn around<C, B>(self, client: C) -> SharedService
    where
        C: Service<Request<Full<Bytes>>, Response = Response<B>, Error = BoxError>
            + Clone
            + Send
            + Sync
            + 'static,
        C::Future: Send,
        B: http_body::Body<Data = Bytes, Error = BoxError> + Send + Unpin + 'static,
    {
        // One type, boxed once: between two layers that call each other through pointers a request
        // costs more than in most of the layers.
        if is_usual(&self.listed) {
            boxed(self.usual(client))
        } else {
            self.folded(boxed(client))
        }
    }

    /// The layers in their usual order.
    fn usual<C, B>(
        self,
        client: C,
    ) -> impl Service<
        Request<Full<Bytes>>,
        Response = Response<PeekedBody<PermitBody<B>>>,
        Error = BoxError,
        Future: Send,
    > + Clone
    + Send
    + Sync
    + 'static
    where
        C: Service<Request<Full<Bytes>>, Response = Response<B>, Error = BoxError>
            + Clone
            + Send
            + Sync
            + 'static,
        C::Future: Send,
        B: http_body::Body<Data = Bytes, Error = BoxError> + Send + Unpin + 'static,
    {
        // Where these two are missing, bodies have the same types without them.
        let retry_on_429 = match self.retry_on_429 {
            Some(layer) => Either::Left(layer),
            None => Either::Right(MapResponseLayer::new(|response: Response<_>| {
                response.map(PeekedBody::untouched)
            })),
        };
        let jitter_throttle = match self.jitter_throttle {
            Some(layer) => Either::Left(layer),
            None => Either::Right(MapResponseLayer::new(|response: Response<B>| {
                response.map(PermitBody::free)
            })),
        };
        ServiceBuilder::new()
            // Outside the gate: every try takes its turn.
            .layer(retry_on_429)
            // Outside the gate, too: the replay takes its turn.
            .option_layer(self.token_refresh)
            // Outside bearer-auth: the token is read after the wait.
            .layer(jitter_throttle)
            // Outside bearer-auth: it strips the client's `Authorization`.
            .option_layer(self.header_align.map(|layer| layer.deferred()))
            .option_layer(self.bearer_auth)
            .service(client)
    }

    /// The same for a lawful order that is not the usual one, with a box around each layer.
    fn folded(&self, client: SharedService) -> SharedService {
        let listed = self.listed.iter().rev();
        listed.fold(client, |inner, name| match name {
            LayerName::HeaderAlign => {
                SharedService::new(option_layer(self.header_align.clone()).layer(inner))
            }
            LayerName::RetryOn429 => match &self.retry_on_429 {
                Some(layer) => boxed(layer.layer(inner)),
                None => inner,
            },
            LayerName::TokenRefresh => {
                SharedService::new(option_layer(self.token_refresh.clone()).layer(inner))
            }
            LayerName::JitterThrottle => match &self.jitter_throttle {
                Some(layer) => boxed(layer.layer(inner)),
                None => inner,
            },
            LayerName::BearerAuth => {
                SharedService::new(option_layer(self.bearer_auth.clone()).layer(inner))
            }
        })
    }
}

/// Whether `listed` is the usual order, or that without some of its layers.
fn is_usual(listed: &[LayerName]) -> bool {
    let mut usual = LayerName::ALL.iter();
    listed.iter().all(|name| usual.any(|it| it == name))
}

/// Boxes a service and the bodies of its answers.
pub(crate) fn boxed<S, B>(service: S) -> SharedService
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = BoxError>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
    B: http_body::Body<Data = Bytes, Error = BoxError> + Send + 'static,
{
    SharedService::new(service.map_response(|response| response.map(BodyExt::boxed_unsync)))
}

fn retry_on_429(
    upstream: &config::Upstream,
    gate: Option<&Gate>,
) -> RetryOn429Layer<DialectClassifier> {
    let settings = &upstream.retry_on_429;
    let layer = RetryOn429Layer::new(DialectClassifier::new(&upstream.dialect))
        .max_retries(settings.max_retries)
        .max_hold(settings.max_hold)
        .default_wait(settings.default_wait)
        .budget(settings.budget);
    match gate {
        Some(gate) => layer.cooldown(gate.clone()),
        None => layer,
    }
}

fn header_align(upstream: &config::Upstream) -> Result<HeaderAlignLayer, NotPassable> {
    let authorized = upstream.pipeline.contains(&LayerName::BearerAuth);
    let mut layer = HeaderAlignLayer::new();
    for field in &upstream.header_align.fields {
        let rule = match &field.rule {
            HeaderRule::Narrow(list) => Rule::Narrow(list.clone()),
            // An empty value stays only where something is sure to replace it.
            HeaderRule::Place if field.name == header::HOST => Rule::Place,
            HeaderRule::Place if field.name == header::AUTHORIZATION && authorized => Rule::Place,
            HeaderRule::Place => continue,
            HeaderRule::Set(value) => Rule::Set(value.clone()),
            HeaderRule::SetIfAbsent(value) => Rule::SetIfAbsent(value.clone()),
        };
        layer = layer.field(field.name.clone(), rule);
    }
    upstream
        .header_align
        .pass
        .iter()
        .try_fold(layer, |layer, name| layer.pass(name.clone()))
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use http::StatusCode;
    use pacegate_layers::{
        header_align::settle, progress::Progress, session::Session, token::StaticToken,
    };
    use tower::service_fn;

    use super::*;
    use crate::{
        config::Sample,
        pipeline::{Pipeline, build},
    };

    fn upstream(listed: &[LayerName]) -> config::Upstream {
        let variable = |name: &str| (name == "HOME").then(|| "/".to_owned());
        let mut config = config::sample(&Sample::BuiltIn, &variable).unwrap();
        let mut upstream = config.upstreams.remove(0);
        upstream.pipeline = listed.to_vec();
        upstream.jitter_throttle.quotas = Vec::new();
        upstream
    }

    /// Refuses the first try and the second try's token, and says in its answer what it was sent.
    fn pipeline(listed: &[LayerName]) -> Pipeline {
        let tries = AtomicUsize::new(0);
        let client = Arc::new(move |request: &Request<Full<Bytes>>| {
            let status = match tries.fetch_add(1, Ordering::Relaxed) {
                0 => StatusCode::TOO_MANY_REQUESTS,
                1 => StatusCode::UNAUTHORIZED,
                _ => StatusCode::OK,
            };
            let mut response = Response::new(Full::new(Bytes::from_static(b"{}")));
            *response.status_mut() = status;
            let mut request = request.clone();
            settle(&mut request);
            *response.headers_mut() = std::mem::take(request.headers_mut());
            response.map(|body| body.map_err(|never| match never {}))
        });
        let client =
            service_fn(move |request| std::future::ready(Ok::<_, BoxError>(client(&request))));
        let source = Arc::new(StaticToken::new("token").unwrap());
        build(&upstream(listed), client, Some(source), None).unwrap()
    }

    /// The status of the answer, the fields that were sent, and how often.
    async fn ask(listed: &[LayerName]) -> (StatusCode, BTreeMap<String, String>, u64) {
        let pipeline = pipeline(listed);
        let mut request = Request::new(Full::new(Bytes::from_static(b"{}")));
        *request.uri_mut() = http::Uri::from_static("/chat/completions");
        let accept = http::HeaderValue::from_static("client/1");
        request.headers_mut().insert(header::ACCEPT, accept);
        let progress = Progress::of(Session::new("s1"));
        request.extensions_mut().insert(progress);
        let response = pipeline.service.oneshot(request).await.unwrap();
        let fields = response.headers().iter();
        let fields = fields.map(|(name, value)| {
            let value = value.to_str().unwrap_or_default();
            (name.to_string(), value.to_owned())
        });
        let dispatched = pipeline.gate.map_or(0, |gate| gate.dispatched());
        (response.status(), fields.collect(), dispatched)
    }

    /// glibc keeps freed pieces at hand up to this size; a larger one is searched for.
    const QUICKLY_HAD: usize = 1032;

    #[tokio::test(start_paused = true)]
    async fn a_request_through_all_layers_is_small_enough_for_malloc_to_have_at_hand() {
        let source = Arc::new(StaticToken::new("token").unwrap());
        let upstream = upstream(&LayerName::ALL);
        let gate = Gate::new(Default::default(), rand::make_rng());
        let stack = Stack::new(&upstream, Some(&gate), Some(source)).unwrap();
        let service = stack.usual(pipeline(&[]).service);
        let future = service.oneshot(Request::new(Full::default()));
        assert!(
            size_of_val(&future) <= QUICKLY_HAD,
            "{}",
            size_of_val(&future)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn every_lawful_order_does_what_the_usual_one_does() {
        use LayerName::{BearerAuth, HeaderAlign, JitterThrottle, RetryOn429, TokenRefresh};
        let (status, fields, dispatched) = ask(&LayerName::ALL).await;
        assert_eq!((status, dispatched), (StatusCode::UNAUTHORIZED, 2));
        assert_eq!(fields["authorization"], "Bearer token");
        assert_eq!(fields["accept"], "application/json");
        for unusual in [
            [
                TokenRefresh,
                HeaderAlign,
                RetryOn429,
                JitterThrottle,
                BearerAuth,
            ],
            [
                RetryOn429,
                JitterThrottle,
                TokenRefresh,
                HeaderAlign,
                BearerAuth,
            ],
        ] {
            assert!(!is_usual(&unusual));
            assert_eq!(ask(&unusual).await, (status, fields.clone(), 2));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_layer_that_is_not_listed_does_nothing() {
        for without in LayerName::ALL {
            let mut listed = LayerName::ALL.to_vec();
            listed.retain(|name| *name != without);
            let (status, fields, dispatched) = ask(&listed).await;
            let retried = without != LayerName::RetryOn429;
            let refused = StatusCode::TOO_MANY_REQUESTS;
            let status_then = [refused, StatusCode::UNAUTHORIZED][usize::from(retried)];
            assert_eq!(status, status_then, "without {without:?}");
            let gated = without != LayerName::JitterThrottle;
            let tries = 1 + u64::from(retried);
            assert_eq!(dispatched, tries * u64::from(gated), "without {without:?}");
            let authorized = without != LayerName::BearerAuth;
            assert_eq!(fields.contains_key("authorization"), authorized);
            let aligned = without != LayerName::HeaderAlign;
            assert_eq!(fields["accept"] == "application/json", aligned);
        }
        let (status, fields, dispatched) = ask(&[]).await;
        assert_eq!((status, dispatched), (StatusCode::TOO_MANY_REQUESTS, 0));
        assert_eq!(fields.len(), 1);
    }
}
