//! The edge: who may talk, where a request goes, and every error as an answer.
//!
//! ```text
//! socket ─► wire ─► request id, trace ─► observe ─► rescue ─► guard ─► router ─► pipeline
//! ```

use std::{any::Any, convert::Infallible, sync::Arc};

use bytes::Bytes;
use http::{HeaderName, Request, Response, header};
use http_body_util::Either;
use hyper::body::Incoming;
use pacegate_layers::error::BoxError;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;
use tower::{ServiceBuilder, util::BoxCloneSyncService};
use tower_http::{
    ServiceBuilderExt,
    body::UnsyncBoxBody,
    catch_panic::CatchPanicLayer,
    classify::{NeverClassifyEos, ServerErrorsFailureClass},
    request_id::MakeRequestUuid,
    trace::{self, TraceLayer},
};
use tracing::{Span, debug_span};

mod body_budget;
mod gateway;
mod guard;
mod observe;
pub(crate) mod reload;
pub(crate) mod request_body;
pub(crate) mod rescue;
pub(crate) mod rescue_table;
mod response_body;
mod session;
mod target;

pub use self::{
    gateway::{BindError, Gateway},
    reload::{LoadedTls, Reloader},
};
pub use crate::server::ListenTlsError;

use self::{
    body_budget::BodyBudget, guard::GuardLayer, observe::ObserveLayer, request_body::BodyReader,
    rescue::RescueLayer, rescue_table::ErrorResponse, response_body::MeteredBody,
};
use crate::{
    body::Body,
    config::{Config, LayerName},
    routes::router::{Route, RouteTable, Router},
    telemetry::metrics::{EdgeMetrics, register_gates, register_quotas},
    upstreams::{Pipeline, response_headers::ResponseHeaderFilter},
};

/// What a connection's requests go to.
type EdgeService = BoxCloneSyncService<Request<Incoming>, Response<EdgeBody>, Infallible>;

/// The body of every answer: an upstream's or one of ours, watched by [`MeteredBody`] and in the span of
/// its request.
type EdgeBody = trace::ResponseBody<
    MeteredBody<Either<UnsyncBoxBody<Bytes, BoxError>, Body>>,
    NeverClassifyEos<ServerErrorsFailureClass>,
    (),
    (),
    (),
>;

/// What clients prove themselves with.
const SECRETS: [HeaderName; 5] = [
    HeaderName::from_static("api-key"),
    header::AUTHORIZATION,
    header::COOKIE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
];

/// The chain around the pipelines of `config`, from the outside in: request id, sensitive headers,
/// trace, observe, rescue, catch-panic, guard, router.
///
/// Extensions: the accept loop adds the [`Connection`](crate::server::Connection); [`observe`] reads it and
/// adds a [`RequestContext`](pacegate_layers::context::RequestContext) of the client's session for the pipeline.
fn edge(
    config: &Config,
    pipelines: Vec<Pipeline>,
    metrics: &Arc<EdgeMetrics>,
    draining: &CancellationToken,
    bodies: &BodyBudget,
) -> EdgeService {
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let named = || config.upstreams.iter().zip(&pipelines);
    register_gates(
        &mut registry,
        named().filter_map(|(upstream, pipeline)| {
            Some((upstream.name.clone(), pipeline.gate.clone()?))
        }),
    );
    register_quotas(
        &mut registry,
        named().filter_map(|(upstream, pipeline)| {
            Some((upstream.name.clone(), pipeline.quotas.clone()?))
        }),
    );
    let router = Router::new(RouteTable {
        upstreams: named()
            .map(|(upstream, pipeline)| Route {
                name: upstream.name.clone(),
                models: upstream.models.clone(),
                pipeline: pipeline.service.clone(),
                gate: pipeline.gate.clone(),
                passing: ResponseHeaderFilter::new(&upstream.response_headers),
                max_hold: upstream.retry_on_429.max_hold,
                aligns: upstream.pipeline.contains(&LayerName::HeaderAlign),
            })
            .collect(),
        body_reader: BodyReader {
            max_body: config.max_body,
            max_bodies: config.limits.max_bodies,
            idle_timeout: config.limits.body_idle_timeout,
            timeout: config.limits.body_timeout,
            bodies: bodies.clone(),
        },
        registry,
        draining: Arc::new(draining.clone()),
    });
    let chain = ServiceBuilder::new()
        // `x-request-id`: the client's or a new one, in the request, its span and the answer. An
        // upstream's own id stays in the answer: its support asks for that one.
        .set_x_request_id(MakeRequestUuid)
        .propagate_x_request_id()
        // Keys and tokens never reach a log line.
        .sensitive_request_headers(Arc::new(SECRETS))
        // Everything further in is logged with the request's id, so this is inside what sets it.
        .layer(
            TraceLayer::new_for_http()
                .make_span_with(request_span as fn(&Request<Incoming>) -> Span)
                .on_request(())
                .on_response(())
                .on_body_chunk(())
                .on_eos(())
                .on_failure(()),
        )
        // Counts every answer that leaves, so everything that makes one is inside.
        .layer(ObserveLayer::new(Arc::clone(metrics)))
        // Errors become answers here; everything further in may fail.
        .layer(RescueLayer)
        // A panic costs the one request, not the process. Inside rescue, whose words it uses.
        .layer(CatchPanicLayer::custom(panicked as fn(_) -> _))
        // Before anything of the body is read.
        .layer(GuardLayer::new(config))
        .service(router);
    BoxCloneSyncService::new(chain)
}

fn request_span(request: &Request<Incoming>) -> Span {
    let id = request.headers().get("x-request-id");
    debug_span!(
        "request",
        id = id.and_then(|id| id.to_str().ok()),
        method = %request.method(),
        path = request.uri().path(),
    )
}

/// The panic itself is in the log, by the hook.
fn panicked(_payload: Box<dyn Any + Send>) -> Response<Body> {
    ErrorResponse::internal().into_response()
}
