//! Clients' connections: sockets, TLS, time-outs, a limit on their number, and hyper's server.
//!
//! In come an address, the [`Settings`] for new connections, and a service for their requests; out
//! go the service's responses. It calls hyper and that service, and knows no route, no config and
//! no upstream.
//!
//! ```text
//! listener ─► connection limit ─► connection ─► TLS ─► hyper ─► the service
//! TCP, Unix   evicts idle ones    time-outs                     (the edge)
//! ```

mod connection;
mod connection_limit;
mod listener;
mod response_body;
mod serve;
mod tls;
mod unix_socket;

use std::{convert::Infallible, io, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use pacegate_layers::error::BoxError;
use prometheus_client::metrics::gauge::Gauge;
use rustls::ServerConfig;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service;
use tracing::{debug, info, warn};

pub(crate) use self::{
    connection::Connection,
    connection_limit::{AtCapacity, MOST_SPARE},
    listener::{Listener, is_out_of_descriptors},
    tls::server_config,
};
pub use self::{listener::BindError, tls::ListenTlsError};

use self::{connection_limit::ConnectionLimit, serve::serve};

/// The settings of a connection that is accepted now.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// TLS, if connections are not plain.
    pub(crate) tls: Option<Arc<ServerConfig>>,
    /// The maximum number of open connections.
    pub(crate) max_connections: usize,
    /// The size in bytes of the largest request head that reaches the service.
    pub(crate) max_head: usize,
    /// From the accept to the first byte, a TLS handshake included.
    pub(crate) first_byte_timeout: Duration,
    /// From the first byte of a request head to its last.
    pub(crate) header_timeout: Duration,
    /// Between two requests.
    pub(crate) keep_alive_timeout: Duration,
    /// While the client reads no byte of a response.
    pub(crate) write_timeout: Duration,
    /// From the shutdown to the reset of the remaining connections.
    pub(crate) drain_timeout: Duration,
}

/// Serves every connection of a listener with a clone of one service.
///
/// Each request has its [`Connection`] in its extensions. A response body that yields an error
/// resets the connection: a clean end would make the response look complete.
#[derive(Debug)]
pub(crate) struct HttpServer<S> {
    /// Read once for each request.
    pub(crate) service: watch::Receiver<S>,
    /// Read once for each connection.
    pub(crate) settings: watch::Receiver<Arc<Settings>>,
    /// Counts the open connections.
    pub(crate) connections: Gauge,
}

/// One connection in the gauge, until dropped.
struct CountedConnection(Gauge);

/// What failed may fail again at once; without a pause the loop would spin.
const PAUSE_AFTER_ACCEPT_ERROR: Duration = Duration::from_millis(100);

/// How often a lack of descriptors is logged. It lasts for many accepts.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

impl<S, B> HttpServer<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
    B: Body<Data = Bytes, Error = BoxError> + Send + 'static,
{
    /// Serves until `shutdown` resolves. Then it closes the listener, calls `drain`, which cancels
    /// `draining`, and serves until the responses in progress are sent or the drain time-out has
    /// passed. A request whose head is incomplete by then is dropped.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the listener. Connections that were accepted are still served.
    pub(crate) async fn serve(
        self,
        listener: Listener,
        shutdown: impl Future<Output = ()>,
        drain: impl FnOnce(),
        draining: CancellationToken,
    ) {
        let connections = TaskTracker::new();
        let cut_off = CancellationToken::new();
        let limit = ConnectionLimit::default();
        let mut reported: Option<Instant> = None;
        let mut shutdown = pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = &mut shutdown => break,
            };
            match accepted {
                Ok(socket) => {
                    let settings = self.settings();
                    let connection = Connection::new();
                    let Some(slot) = limit.enter(&connection, settings.max_connections) else {
                        debug!("No room for a connection");
                        continue;
                    };
                    let counted = CountedConnection::new(&self.connections);
                    let (service, draining) = (self.service.clone(), draining.clone());
                    let cut_off = cut_off.clone();
                    connections.spawn(async move {
                        // Held until the connection has ended.
                        let _held = (slot, counted);
                        serve(socket, connection, service, settings, draining, cut_off).await;
                    });
                }
                Err(error) if is_out_of_descriptors(&error) => {
                    free_descriptor(&limit, &error, &mut reported).await;
                }
                Err(error) => {
                    warn!(%error, "Accepting a connection failed");
                    sleep(PAUSE_AFTER_ACCEPT_ERROR).await;
                }
            }
        }
        drop(listener);
        drain();
        connections.close();
        let limit = self.settings().drain_timeout;
        info!(connections = connections.len(), ?limit, "Draining");
        if timeout(limit, connections.wait()).await.is_err() {
            let answers = connections.len();
            warn!(
                answers,
                "Breaking off what has not ended within drain-timeout"
            );
            cut_off.cancel();
            connections.wait().await;
        }
        info!("Stopped");
    }

    fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.borrow())
    }
}

/// Evicts a connection as if `max-connections` were reached, and waits until one has closed: before
/// that, the next accept would fail as well.
async fn free_descriptor(
    limit: &ConnectionLimit,
    error: &io::Error,
    reported: &mut Option<Instant>,
) {
    let closed = limit.closed();
    let evicted = limit.evict();
    if reported.is_none_or(|at| at.elapsed() >= REPORT_INTERVAL) {
        *reported = Some(Instant::now());
        warn!(
            %error,
            evicted,
            hint = "raise the limit on open files, or lower limits.max-connections",
            "No file descriptor for a connection"
        );
    }
    // If every connection is busy, a descriptor of something else may become free.
    let _elapsed = timeout(PAUSE_AFTER_ACCEPT_ERROR, closed).await;
}

// === impl CountedConnection ===

impl CountedConnection {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}
