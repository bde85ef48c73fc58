//! The edge in use now. A reload puts another in its place; requests that have begun end on the old.

use std::{convert::Infallible, fmt, sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::body::Incoming;
use parking_lot::RwLock;
use rustls::ServerConfig;
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::{EdgeBody, EdgeService, body_budget::BodyBudget, edge};
use crate::{
    config::{Config, Limits},
    server::{ListenTlsError, server_config},
    telemetry::metrics::EdgeMetrics,
    upstreams::Pipeline,
};

/// Changes what a gateway that serves does with the requests that come from now on.
#[derive(Clone, Debug)]
pub struct Reloader(ReloadableEdge);

/// What a reload has read besides the config.
#[derive(Debug)]
pub struct LoadedTls(Option<Arc<ServerConfig>>);

/// The edge that every new request goes to, and what outlives each of them; clones are the same.
#[derive(Clone)]
pub(crate) struct ReloadableEdge(Arc<EdgeInner>);

struct EdgeInner {
    metrics: Arc<EdgeMetrics>,
    draining: CancellationToken,
    bodies: BodyBudget,
    edge: RwLock<Edge>,
}

/// What a config has made.
#[derive(Clone)]
struct Edge {
    service: EdgeService,
    tls: Option<Arc<ServerConfig>>,
    limits: Arc<Limits>,
    drain_timeout: Duration,
}

// === impl Reloader ===

impl Reloader {
    /// Reads the certificate that `config` names. Comes before anything is changed.
    ///
    /// # Errors
    ///
    /// [`ListenTlsError`] if it cannot be used.
    pub fn prepare(config: &Config) -> Result<LoadedTls, ListenTlsError> {
        let tls = config.listen_tls.as_ref();
        Ok(LoadedTls(tls.map(server_config).transpose()?))
    }

    /// Sends requests through `pipelines`, those of `config.upstreams` in order, and serves new
    /// connections with what was `prepared`. What is bound and what threads there are stays as it
    /// is.
    pub fn reload(&self, prepared: LoadedTls, config: &Config, pipelines: Vec<Pipeline>) {
        let EdgeInner {
            metrics,
            draining,
            bodies,
            edge,
        } = &*self.0.0;
        let new = Edge::new(prepared, config, pipelines, metrics, draining, bodies);
        *edge.write() = new;
    }
}

// === impl ReloadableEdge ===

impl ReloadableEdge {
    pub(crate) fn new(config: &Config, pipelines: Vec<Pipeline>) -> Result<Self, ListenTlsError> {
        let prepared = Reloader::prepare(config)?;
        let metrics = Arc::new(EdgeMetrics::default());
        let draining = CancellationToken::new();
        let bodies = BodyBudget::default();
        let edge = Edge::new(prepared, config, pipelines, &metrics, &draining, &bodies);
        Ok(Self(Arc::new(EdgeInner {
            metrics,
            draining,
            bodies,
            edge: RwLock::new(edge),
        })))
    }

    pub(crate) fn reloader(&self) -> Reloader {
        Reloader(self.clone())
    }

    pub(crate) fn metrics(&self) -> &Arc<EdgeMetrics> {
        &self.0.metrics
    }

    /// Cancelled once the process winds down.
    pub(crate) fn draining(&self) -> &CancellationToken {
        &self.0.draining
    }

    /// What a connection that comes now is served over, if not plainly.
    pub(crate) fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.read(|edge| edge.tls.clone())
    }

    /// What holds for a connection that comes now.
    pub(crate) fn limits(&self) -> Arc<Limits> {
        self.read(|edge| Arc::clone(&edge.limits))
    }

    pub(crate) fn drain_timeout(&self) -> Duration {
        self.read(|edge| edge.drain_timeout)
    }

    /// Answers `request` with what is in use now.
    pub(crate) fn answer(
        &self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<EdgeBody>, Infallible>> + use<> {
        // Nothing in there has to be waited for before it is called.
        self.read(|edge| edge.service.clone()).call(request)
    }

    fn read<T>(&self, read: impl FnOnce(&Edge) -> T) -> T {
        read(&self.0.edge.read())
    }
}

impl fmt::Debug for ReloadableEdge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReloadableEdge")
    }
}

// === impl Edge ===

impl Edge {
    fn new(
        prepared: LoadedTls,
        config: &Config,
        pipelines: Vec<Pipeline>,
        metrics: &Arc<EdgeMetrics>,
        draining: &CancellationToken,
        bodies: &BodyBudget,
    ) -> Self {
        Self {
            service: edge(config, pipelines, metrics, draining, bodies),
            tls: prepared.0,
            limits: Arc::new(config.limits.clone()),
            drain_timeout: config.drain_timeout,
        }
    }
}
