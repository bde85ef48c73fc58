//! The whole gateway: a listener, a server, and the edge that it serves.

use std::fmt;

use super::reload::{ReloadableEdge, Reloader};
use crate::{
    config::{Config, Listen},
    server::{BindError, HttpServer, Listener},
    upstreams::Pipeline,
};

/// A gateway that is bound to its address and does not accept connections yet.
#[derive(Debug)]
pub struct Gateway {
    listener: Listener,
    edge: ReloadableEdge,
}

// === impl Gateway ===

impl Gateway {
    /// Binds to `config.listen`; `pipelines` are those of `config.upstreams`, in order.
    ///
    /// # Errors
    ///
    /// [`BindError`] if the address is in use or not local, or a certificate cannot be used.
    pub async fn bind(config: &Config, pipelines: Vec<Pipeline>) -> Result<Self, BindError> {
        let edge = ReloadableEdge::new(config, pipelines)?;
        let listener = match &config.listen {
            Listen::Tcp(address) => Listener::tcp(*address).await,
            Listen::Unix(path) => Listener::unix(path.clone()).await,
        };
        let listener = listener.map_err(|reason| BindError::Address {
            address: config.listen.to_string(),
            reason,
        })?;
        Ok(Self { listener, edge })
    }

    /// The means to reload the configuration, before or while the gateway serves.
    pub fn reloader(&self) -> Reloader {
        self.edge.reloader()
    }

    /// Serves until `shutdown` resolves, then until the responses in progress are sent or
    /// `drain-timeout` has passed. Queued requests then get 503 with `Retry-After`; a request that
    /// has not arrived completely is dropped.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the listener. Connections that were accepted are still served.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let Self { listener, edge } = self;
        let server = HttpServer {
            settings: edge.settings(),
            connections: edge.connections_gauge(),
            service: edge.service(),
        };
        let draining = edge.draining().clone();
        server
            .serve(listener, shutdown, || edge.drain(), draining)
            .await;
    }
}

/// The base URL for clients: `http://127.0.0.1:7223`, or `unix:` and the socket's path.
impl fmt::Display for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listener = &self.listener;
        match listener {
            Listener::Tcp(_) if self.edge.serves_tls() => write!(f, "https://{listener}"),
            Listener::Tcp(_) => write!(f, "http://{listener}"),
            Listener::Unix(..) => write!(f, "{listener}"),
        }
    }
}
