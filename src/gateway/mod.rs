//! The edge: who may talk, where a request goes, and every error as an answer.
//!
//! ```text
//! socket ─► wire ─► observe ─► rescue ─► guard ─► routes ─► pipeline
//! ```

use std::sync::Arc;

use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;
use tower::ServiceBuilder;

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
mod session;
mod target;
mod wire;

pub use self::{
    current::{Prepared, Reloader},
    listen::{BindError, Gateway},
    wire::ListenTlsError,
};

use self::{
    bodies::Bodies,
    guard::{Guard, GuardLayer},
    inbound::Intake,
    observe::{Observe, ObserveLayer},
    rescue::{Rescue, RescueLayer},
    response_headers::Passing,
    route::{Route, Routes, Table},
};
use crate::{
    config::{Config, LayerName},
    metrics::{EdgeMetrics, register_gates, register_quotas},
    pipeline::Pipeline,
};

/// What a connection's requests go to.
type EdgeService = Observe<Rescue<Guard<Routes>>>;

/// The chain around the pipelines of `config`.
///
/// Extensions: the accept loop adds the [`Connection`](wire::Connection); [`observe`] reads it and
/// adds a [`Progress`](pacegate_layers::progress::Progress) of the client's session for the pipeline.
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
                aligns: upstream.pipeline.contains(&LayerName::HeaderAlign),
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
        draining: Arc::new(draining.clone()),
    });
    ServiceBuilder::new()
        // Names the request and counts every answer that leaves, so everything that makes one is
        // inside.
        .layer(ObserveLayer::new(Arc::clone(metrics)))
        // Errors and panics become answers here; everything further in may fail. Inside observe, so
        // that they are counted.
        .layer(RescueLayer)
        // Before anything of the body is read.
        .layer(GuardLayer::new(config))
        .service(routes)
}
