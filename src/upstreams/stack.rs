//! The one chain of layers around an upstream's client.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, Version, header};
use http_body_util::{BodyExt, Full};
use pacegate_layers::{
    BearerAuthLayer, HeaderAlignLayer, JitterThrottleLayer, RetryOn429Layer, TokenRefreshLayer,
    bearer_auth::BearerAuth,
    context::RequestContext,
    error::BoxError,
    header_align::{HeaderAlign, NotPassable, Rule},
    jitter_throttle::PermitBody,
    pacing::Gate,
    retry_on_429::{PeekedBody, RetryBudget},
    token::TokenSource,
};
use tower::{
    Service, ServiceBuilder, ServiceExt,
    layer::layer_fn,
    service_fn,
    util::{Either, MapRequestLayer, MapResponseLayer},
};

use super::{
    PipelineError, UpstreamService, keep_waiting::KeepWaitingLayer,
    request_headers::retain_end_to_end, response_headers::ResponseHeaderFilter,
};
use crate::{
    config::{self, HeaderRule, LayerName},
    dialect::DialectClassifier,
};

/// A service that can stand at the end of a pipeline: an HTTP client whose responses have bodies `B`.
pub trait HttpService<B>:
    Service<Request<Full<Bytes>>, Response = Response<B>, Error = BoxError, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S, B> HttpService<B> for S where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = BoxError, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// What jitter-throttle has inside it.
type AlignedService<C> = Either<HeaderAlign<AuthorizedService<C>>, AuthorizedService<C>>;
type AuthorizedService<C> = Either<BearerAuth<C, Arc<dyn TokenSource>>, C>;

/// Puts the layers that `upstream` lists around `client`, and around these the layers that every
/// upstream has. `gate` is there if jitter-throttle is listed; tokens come from `source`;
/// `retry_budget` limits the account's retries.
///
/// In the order of a request: response headers, keep-waiting, request headers, retry-on-429,
/// token-refresh, jitter-throttle, header-align, bearer-auth.
///
/// Extensions: retry-on-429 adds a [`RequestContext`] if the edge has not; keep-waiting,
/// jitter-throttle and the client read and write it. bearer-auth adds the [`BearerToken`] to a
/// response that is no success, and token-refresh reads it there.
///
/// [`BearerToken`]: pacegate_layers::token::BearerToken
/// [`RequestContext`]: pacegate_layers::context::RequestContext
pub(super) fn stack<C, B>(
    upstream: &config::Upstream,
    client: C,
    gate: Option<&Gate>,
    source: Option<Arc<dyn TokenSource>>,
    retry_budget: RetryBudget,
) -> Result<UpstreamService, PipelineError>
where
    C: HttpService<B>,
    B: http_body::Body<Data = Bytes, Error = BoxError> + Send + Unpin + 'static,
{
    let listed = |layer| upstream.pipeline.contains(&layer);
    let token_for = |layer| match &source {
        _ if !listed(layer) => Ok(None),
        Some(source) => Ok(Some(Arc::clone(source))),
        None => Err(PipelineError::NoToken(layer)),
    };
    let token_refresh = token_for(LayerName::TokenRefresh)?.map(|source| {
        let statuses = upstream.dialect.refresh_on.iter();
        TokenRefreshLayer::new(source).refresh_on(statuses.map(|status| status.as_u16()))
    });
    let header_align = listed(LayerName::HeaderAlign)
        .then(|| header_align(upstream))
        .transpose()?;
    let bearer_auth = token_for(LayerName::BearerAuth)?.map(BearerAuthLayer::new);
    // These two change the body type; without them an adapter does.
    let retry_on_429 = if listed(LayerName::RetryOn429) {
        Either::Left(retry_on_429(upstream, gate, retry_budget))
    } else {
        Either::Right(MapResponseLayer::new(|response: Response<_>| {
            response.map(PeekedBody::untouched)
        }))
    };
    let jitter_throttle = match gate {
        Some(gate) if listed(LayerName::RetryOn429) => {
            Either::Left(JitterThrottleLayer::new(gate.clone()).feedback_from_outside())
        }
        Some(gate) => Either::Left(JitterThrottleLayer::new(gate.clone())),
        // Without a gate a request gets its connection and its token as soon as it comes, and a
        // failure is one that retry-on-429 sees.
        None => Either::Right(layer_fn(|inner: AlignedService<C>| {
            let service = service_fn(move |request: Request<_>| {
                let mut inner = inner.clone();
                async move {
                    let ready = inner.ready().await;
                    if ready.is_err()
                        && let Some(context) = request.extensions().get::<RequestContext>()
                    {
                        context.count_attempt();
                    }
                    ready?.call(request).await
                }
            });
            service.map_response(|response: Response<B>| response.map(PermitBody::without_permit))
        })),
    };
    let response_headers = Arc::new(ResponseHeaderFilter::new(&upstream.response_headers));
    // Boxed once, around all layers: a box per layer would cost more than most of the layers.
    Ok(UpstreamService::new(
        ServiceBuilder::new()
            // Keeps the upstream's cookies and other unlisted headers from the client. Outside
            // keep-waiting, which reads and writes headers that may be unlisted.
            .map_response(move |mut response: Response<_>| {
                // The version is that of the upstream's connection; the client's has its own.
                *response.version_mut() = Version::HTTP_11;
                response_headers.retain(response.headers_mut());
                response
            })
            // Keeps a client from timing out while its request waits, so it is outside all that
            // waits.
            .layer(KeepWaitingLayer {
                max_hold: upstream.retry_on_429.max_hold,
                gate: gate.cloned(),
            })
            // Boxed here, so that the body of a wait is the only one that costs a step more.
            .map_response(|response: Response<_>| response.map(BodyExt::boxed_unsync))
            // Removes the headers of the client's connection. header-align passes none of them.
            .option_layer((!listed(LayerName::HeaderAlign)).then(|| {
                MapRequestLayer::new(|mut request: Request<Full<Bytes>>| {
                    retain_end_to_end(request.headers_mut());
                    request
                })
            }))
            // Keeps 429 responses from the client. Outside jitter-throttle, because every attempt
            // takes its turn; outside token-refresh, because the replay may be refused as well.
            .layer(retry_on_429)
            // Replaces a token that was revoked early. Outside jitter-throttle, because the replay
            // takes its turn, too; outside bearer-auth, which sends the new token.
            .option_layer(token_refresh)
            // Protects the account: requests leave one by one, at its pace. Outside the layers that
            // build the request, because it may wait here for minutes.
            .layer(jitter_throttle)
            // Keeps the client's credentials and its other headers from the upstream. Outside
            // bearer-auth, because it strips `Authorization`.
            .option_layer(header_align)
            // Sends the account's token. Innermost, because a token that was read before the wait
            // may be stale after it.
            .option_layer(bearer_auth)
            .service(client),
    ))
}

fn retry_on_429(
    upstream: &config::Upstream,
    gate: Option<&Gate>,
    budget: RetryBudget,
) -> RetryOn429Layer<DialectClassifier> {
    let settings = &upstream.retry_on_429;
    let layer = RetryOn429Layer::new(DialectClassifier::new(&upstream.dialect))
        .max_retries(settings.max_retries)
        .max_hold(settings.max_hold)
        .default_wait(settings.default_wait)
        .budget(budget);
    match gate {
        Some(gate) => layer.feedback(gate.clone()),
        None => layer,
    }
}

fn header_align(upstream: &config::Upstream) -> Result<HeaderAlignLayer, NotPassable> {
    let authorized = upstream.pipeline.contains(&LayerName::BearerAuth);
    let mut layer = HeaderAlignLayer::new();
    for field in &upstream.header_align.fields {
        let rule = match &field.rule {
            HeaderRule::Narrow(list) => Rule::Narrow(list.clone()),
            // An empty value stays only where another one is sure to replace it.
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

    use super::*;
    use crate::{
        config::Sample,
        upstreams::{Pipeline, build},
    };
    use http::{HeaderMap, StatusCode};
    use pacegate_layers::{
        context::{RequestContext, Session},
        token::StaticToken,
    };
    use parking_lot::Mutex;

    fn upstream(listed: &[LayerName]) -> config::Upstream {
        let variable = |name: &str| (name == "HOME").then(|| "/".to_owned());
        let mut config = config::sample(&Sample::BuiltIn, &variable).unwrap();
        let mut upstream = config.upstreams.remove(0);
        upstream.pipeline = listed.to_vec();
        upstream.jitter_throttle.quotas = Vec::new();
        upstream
    }

    /// Refuses the first attempt, then the second attempt's token, and stores the headers of the
    /// latest request.
    fn pipeline(listed: &[LayerName], sent: &Arc<Mutex<HeaderMap>>) -> Pipeline {
        let attempts = AtomicUsize::new(0);
        let sent = Arc::clone(sent);
        let client = Arc::new(move |request: &Request<Full<Bytes>>| {
            sent.lock().clone_from(request.headers());
            let status = match attempts.fetch_add(1, Ordering::Relaxed) {
                0 => StatusCode::TOO_MANY_REQUESTS,
                1 => StatusCode::UNAUTHORIZED,
                _ => StatusCode::OK,
            };
            let mut response = Response::new(Full::new(Bytes::from_static(b"{}")));
            *response.status_mut() = status;
            response.map(|body| body.map_err(|never| match never {}))
        });
        let client =
            service_fn(move |request| std::future::ready(Ok::<_, BoxError>(client(&request))));
        let source = Arc::new(StaticToken::new("token").unwrap());
        build(&upstream(listed), client, Some(source), None).unwrap()
    }

    /// The status of the response, the headers that were sent, and the number of dispatches.
    async fn ask(listed: &[LayerName]) -> (StatusCode, BTreeMap<String, String>, u64) {
        let sent = Arc::default();
        let pipeline = pipeline(listed, &sent);
        let mut request = Request::new(Full::new(Bytes::from_static(b"{}")));
        *request.uri_mut() = http::Uri::from_static("/chat/completions");
        for (name, value) in [
            ("accept", "client/1"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
        ] {
            let value = http::HeaderValue::from_static(value);
            request.headers_mut().insert(name, value);
        }
        let context = RequestContext::of(Session::new("s1"));
        request.extensions_mut().insert(context);
        let response = pipeline.service.oneshot(request).await.unwrap();
        let sent = sent.lock();
        let fields = sent.iter().map(|(name, value)| {
            let value = value.to_str().unwrap_or_default();
            (name.to_string(), value.to_owned())
        });
        let dispatched = pipeline.gate.map_or(0, |gate| gate.dispatched());
        (response.status(), fields.collect(), dispatched)
    }

    #[tokio::test(start_paused = true)]
    async fn the_layer_order_does_not_depend_on_the_list() {
        let (status, fields, dispatched) = ask(&LayerName::ALL).await;
        assert_eq!((status, dispatched), (StatusCode::UNAUTHORIZED, 2));
        assert_eq!(fields["authorization"], "Bearer token");
        assert_eq!(fields["accept"], "application/json");
        let mut reversed = LayerName::ALL;
        reversed.reverse();
        assert_eq!(ask(&reversed).await, (status, fields, dispatched));
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
            let attempts = 1 + u64::from(retried);
            assert_eq!(
                dispatched,
                attempts * u64::from(gated),
                "without {without:?}"
            );
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
