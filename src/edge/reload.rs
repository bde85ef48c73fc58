//! The current edge. A reload replaces it; requests that have begun end on the old one.

use std::{fmt, sync::Arc};

use pacegate_layers::pacing::WeakGate;
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use rustls::ServerConfig;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{EdgeService, edge, request_body::BodyBudget};
use crate::{
    config::Config,
    server::{ListenTlsError, Settings, server_config},
    telemetry::metrics::EdgeMetrics,
    upstreams::Pipeline,
};

/// Replaces the edge of a running gateway.
#[derive(Clone, Debug)]
pub struct Reloader(ReloadableEdge);

/// The certificate that a reload has loaded, if any.
#[derive(Debug)]
pub struct LoadedTls(Option<Arc<ServerConfig>>);

/// The edge for new requests, and what outlives each edge; clones share it.
#[derive(Clone)]
pub(super) struct ReloadableEdge(Arc<EdgeInner>);

struct EdgeInner {
    metrics: Arc<EdgeMetrics>,
    budget: BodyBudget,
    draining: CancellationToken,
    /// Every gate at which a request may wait, those of replaced edges included.
    gates: Mutex<Vec<WeakGate>>,
    service: watch::Sender<EdgeService>,
    settings: watch::Sender<Arc<Settings>>,
}

// === impl Reloader ===

impl Reloader {
    /// Reads the certificate that `config` names. Call it before anything changes.
    ///
    /// # Errors
    ///
    /// [`ListenTlsError`] if it cannot be used.
    pub fn prepare(config: &Config) -> Result<LoadedTls, ListenTlsError> {
        let files = config.listen_tls.as_ref();
        let tls = files.map(|files| server_config(&files.cert_file, &files.key_file));
        Ok(LoadedTls(tls.transpose()?))
    }

    /// Sends requests through `pipelines`, those of `config.upstreams` in order, and serves new
    /// connections with `tls`. The bound address and the number of threads stay as they are.
    pub fn reload(&self, tls: LoadedTls, config: &Config, pipelines: Vec<Pipeline>) {
        let inner = &*self.0.0;
        inner.watch(&pipelines);
        inner.settings.send_replace(settings(config, tls));
        inner.service.send_replace(edge(
            config,
            pipelines,
            &inner.metrics,
            &inner.draining,
            &inner.budget,
        ));
        if inner.draining.is_cancelled() {
            self.0.drain();
        }
    }
}

// === impl ReloadableEdge ===

impl ReloadableEdge {
    pub(super) fn new(config: &Config, pipelines: Vec<Pipeline>) -> Result<Self, ListenTlsError> {
        let tls = Reloader::prepare(config)?;
        let metrics = Arc::new(EdgeMetrics::default());
        let budget = BodyBudget::default();
        let draining = CancellationToken::new();
        let gates = gates(&pipelines).collect();
        let service = edge(config, pipelines, &metrics, &draining, &budget);
        Ok(Self(Arc::new(EdgeInner {
            metrics,
            budget,
            draining,
            gates: Mutex::new(gates),
            service: watch::Sender::new(service),
            settings: watch::Sender::new(settings(config, tls)),
        })))
    }

    pub(super) fn reloader(&self) -> Reloader {
        Reloader(self.clone())
    }

    /// The settings of new connections.
    pub(super) fn settings(&self) -> watch::Receiver<Arc<Settings>> {
        self.0.settings.subscribe()
    }

    /// The service of new requests.
    pub(super) fn service(&self) -> watch::Receiver<EdgeService> {
        self.0.service.subscribe()
    }

    pub(super) fn serves_tls(&self) -> bool {
        self.0.settings.borrow().tls.is_some()
    }

    /// Counts the open connections.
    pub(super) fn connections_gauge(&self) -> Gauge {
        self.0.metrics.connections.clone()
    }

    /// Cancelled once the process shuts down.
    pub(super) fn draining(&self) -> &CancellationToken {
        &self.0.draining
    }

    /// Begins the shutdown: no request waits for a turn any more.
    pub(super) fn drain(&self) {
        self.0.draining.cancel();
        for gate in self.0.gates.lock().iter().filter_map(WeakGate::upgrade) {
            gate.drain();
        }
    }
}

impl fmt::Debug for ReloadableEdge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReloadableEdge")
    }
}

// === impl EdgeInner ===

impl EdgeInner {
    /// Adds the gates of `pipelines` for the shutdown, and removes those that were dropped.
    fn watch(&self, pipelines: &[Pipeline]) {
        let mut gates_in_use = self.gates.lock();
        gates_in_use.retain(|gate| gate.upgrade().is_some());
        for gate in gates(pipelines) {
            if !gates_in_use.contains(&gate) {
                gates_in_use.push(gate);
            }
        }
    }
}

fn gates(pipelines: &[Pipeline]) -> impl Iterator<Item = WeakGate> {
    let gates = pipelines
        .iter()
        .filter_map(|pipeline| pipeline.gate.as_ref());
    gates.map(pacegate_layers::pacing::Gate::downgrade)
}

fn settings(config: &Config, tls: LoadedTls) -> Arc<Settings> {
    let limits = &config.limits;
    Arc::new(Settings {
        tls: tls.0,
        max_connections: limits.max_connections,
        max_head: limits.max_header_size.saturating_add(limits.max_target),
        first_byte_timeout: limits.first_byte_timeout,
        header_timeout: limits.header_timeout,
        keep_alive_timeout: limits.keep_alive_timeout,
        write_timeout: limits.write_timeout,
        drain_timeout: config.drain_timeout,
    })
}
