//! The edge: who may talk, where a request goes, and every error as an answer.
//!
//! ```text
//! socket ─► wire ─► observe ─► catch panics ─► rescue ─► guard ─► routes ─► pipeline
//! ```

use std::{convert::Infallible, sync::Arc};

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;
use tower::{ServiceBuilder, filter::FilterLayer};
use tower_http::catch_panic::CatchPanicLayer;

mod answer;
mod bodies;
mod current;
mod drain;
mod final_text;
mod guard;
mod hold;
mod inbound;
mod listen;
mod observe;
mod outgoing;
pub mod record;
mod rescue;
mod response_headers;
mod route;
mod target;
mod wire;

pub use self::{
    current::{Prepared, Reloader},
    listen::{BindError, Gateway},
    wire::ListenTlsError,
};

use self::{
    answer::Answer,
    bodies::Bodies,
    guard::Guard,
    inbound::Intake,
    observe::ObserveLayer,
    outgoing::Outgoing,
    rescue::RescueLayer,
    response_headers::Passing,
    route::{Route, Routes, Table},
};
use crate::{
    config::Config,
    metrics::{EdgeMetrics, register_gates, register_quotas},
    pipeline::{Pipeline, Shared},
};

/// What a connection's requests go to.
type EdgeService = Shared<Request<Incoming>, Response<Outgoing>, Infallible>;

/// The chain around the pipelines of `config`.
///
/// Extensions: the accept loop adds the [`Connection`](wire::Connection); [`observe`] reads it and
/// adds a [`Progress`](pacegate_layers::progress::Progress) for the pipeline.
fn edge(
    config: &Config,
    pipelines: Vec<Pipeline>,
    metrics: &Arc<EdgeMetrics>,
    draining: &CancellationToken,
    bodies: &Bodies,
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
    let routes = Routes::new(Table {
        upstreams: named()
            .map(|(upstream, pipeline)| Route {
                name: upstream.name.clone(),
                models: upstream.models.clone(),
                pipeline: pipeline.service.clone(),
                gate: pipeline.gate.clone(),
                passing: Passing::new(&upstream.response_headers),
                max_hold: upstream.retry_on_429.max_hold,
            })
            .collect(),
        intake: Intake {
            max_body: config.max_body,
            max_bodies: config.limits.max_bodies,
            idle_timeout: config.limits.body_idle_timeout,
            timeout: config.limits.body_timeout,
            bodies: bodies.clone(),
        },
        registry,
        draining: draining.clone(),
    });
    let service = ServiceBuilder::new()
        // Names the request and counts every answer that leaves, so everything that makes one is
        // inside.
        .layer(ObserveLayer::new(Arc::clone(metrics)))
        // A panic costs one request, not the process; inside observe, so that it is counted.
        .map_response(|response: Response<_>| response.map(BodyExt::boxed_unsync))
        .layer(CatchPanicLayer::custom(|_panic| {
            Answer::internal().into_response()
        }))
        // Errors become answers here; everything further in may fail.
        .layer(RescueLayer)
        // Before anything of the body is read.
        .layer(FilterLayer::new(Guard::new(config)))
        .service(routes);
    Shared::new(service)
}
