//! What every request passes before it is routed: an id, metrics, checks, its body; and errors as
//! responses.
//!
//! In come requests from the `server`, out go responses: an upstream's, one of pacegate's own, or
//! an error in the shape of the API. It calls the `routes`.
//!
//! ```text
//! server ─► id ─► sensitive headers ─► trace ─► context ─► metrics ─► rescue ─► catch-panic ─┐
//!                                          router ◄─ body ◄─ local routes ◄─ guard ◄─────────┘
//! ```
//!
//! [`Gateway`] joins the listener, the `server` and this chain; a [`Reloader`] replaces the chain
//! while the server runs.

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

mod context;
mod gateway;
mod guard;
mod metrics;
mod reload;
mod request_body;
mod rescue;
mod rescue_table;

pub use self::{
    gateway::Gateway,
    reload::{LoadedTls, Reloader},
};
pub use crate::server::{BindError, ListenTlsError};

use self::{
    context::ContextLayer,
    guard::GuardLayer,
    metrics::{MeteredBody, MetricsLayer},
    request_body::{BodyBudget, BodyReader, RequestBodyLayer},
    rescue::RescueLayer,
};
use crate::{
    api::ErrorResponse,
    body::Body,
    config::Config,
    routes::{LocalRoutesLayer, LocalTable, Route, Router},
    telemetry::metrics::{EdgeMetrics, register_gates, register_quotas},
    upstreams::Pipeline,
};

/// The service for all requests on all connections.
type EdgeService = BoxCloneSyncService<Request<Incoming>, Response<EdgeBody>, Infallible>;

/// The body of every response: an upstream's or our own, counted, in the span of its request.
type EdgeBody = trace::ResponseBody<
    MeteredBody<Either<UnsyncBoxBody<Bytes, BoxError>, Body>>,
    NeverClassifyEos<ServerErrorsFailureClass>,
    (),
    (),
    (),
>;

/// Headers that contain clients' credentials.
const SECRETS: [HeaderName; 5] = [
    HeaderName::from_static("api-key"),
    header::AUTHORIZATION,
    header::COOKIE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
];

/// The chain around the `pipelines`, which are in the order of `config.upstreams`.
///
/// Extensions: the server adds the [`Connection`](crate::server::Connection), which the context
/// layer reads and the local routes remove; the context layer adds the
/// [`RequestContext`](pacegate_layers::context::RequestContext), which everything further in may
/// read and write.
fn edge(
    config: &Config,
    pipelines: Vec<Pipeline>,
    metrics: &Arc<EdgeMetrics>,
    draining: &CancellationToken,
    budget: &BodyBudget,
) -> EdgeService {
    let registry = registry(config, &pipelines, metrics);
    let upstreams = config.upstreams.iter().zip(pipelines);
    let routes: Arc<[Route]> = upstreams
        .map(|(upstream, pipeline)| Route {
            name: upstream.name.as_str().into(),
            models: upstream.models.clone(),
            service: pipeline.service,
        })
        .collect();
    let chain = ServiceBuilder::new()
        // `x-request-id`: the client's or a new one, in the request, its span and the response. An
        // upstream's own id stays in the response: the provider's support asks for it.
        .set_x_request_id(MakeRequestUuid)
        .propagate_x_request_id()
        // Keys and tokens never reach a log line.
        .sensitive_request_headers(Arc::new(SECRETS))
        // Sets the span of all log lines further in, so it is inside the request id.
        .layer(
            TraceLayer::new_for_http()
                .make_span_with(request_span as fn(&Request<Incoming>) -> Span)
                .on_request(())
                .on_response(())
                .on_body_chunk(())
                .on_eos(())
                .on_failure(()),
        )
        // Adds `x-pacegate-attempts` and `x-pacegate-queued-ms` to every response, errors too.
        .layer(ContextLayer)
        // Counts every response, so it is outside all that makes one.
        .layer(MetricsLayer::new(Arc::clone(metrics)))
        // Turns errors into responses; every layer further in may fail.
        .layer(RescueLayer)
        // Limits a panic to its request. Inside rescue, which shapes its response.
        .layer(CatchPanicLayer::custom(panicked as fn(_) -> _))
        // Rejects requests before their bodies are read.
        .layer(GuardLayer::new(config))
        // Serves health, metrics and models, which need no body and no upstream.
        .layer(LocalRoutesLayer::new(LocalTable {
            registry,
            routes: Arc::clone(&routes),
            draining: draining.clone(),
        }))
        // Reads the whole body: its model selects the route, and a retry sends it again.
        .layer(RequestBodyLayer::new(BodyReader {
            max_body: config.max_body,
            max_bodies: config.limits.max_bodies,
            idle_timeout: config.limits.body_idle_timeout,
            timeout: config.limits.body_timeout,
            budget: budget.clone(),
            draining: draining.clone(),
        }))
        .service(Router::new(routes));
    BoxCloneSyncService::new(chain)
}

/// All metrics, those of the `pipelines` included.
fn registry(config: &Config, pipelines: &[Pipeline], metrics: &EdgeMetrics) -> Registry {
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let named = || config.upstreams.iter().zip(pipelines);
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
    registry
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

/// The panic hook has logged the panic itself.
fn panicked(_payload: Box<dyn Any + Send>) -> Response<Body> {
    ErrorResponse::internal().into_response()
}
