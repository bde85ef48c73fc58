//! The accept loop, from binding to the end of the last answer.

use std::{fmt, io, pin::pin, sync::Arc, time::Duration};

use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, UnixListener},
    time::sleep,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;
use tracing::{debug, info, warn};

use super::{
    EdgeService,
    connection::{ClientIo, Stream},
    edge,
    framing::{Framed, HeadLimits},
    route::Routes,
    tls::{self, ListenTlsError},
    transport::Transport,
    unix_socket::{self, SocketFile},
};
use crate::{
    config::{Config, Listen},
    metrics::EdgeMetrics,
    pipeline::Pipeline,
};

/// When no socket can be accepted because descriptors ran out, some have to be closed first.
const PAUSE_AFTER_ACCEPT_ERROR: Duration = Duration::from_millis(100);

/// A gateway that is bound to its address and accepts nobody yet.
#[derive(Debug)]
pub struct Gateway {
    listener: Listener,
    tls: Option<Arc<ServerConfig>>,
    edge: EdgeService,
    routes: Routes,
    metrics: Arc<EdgeMetrics>,
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// Clients cannot be listened for.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Not on that address.
    #[error("cannot listen on {address}: {source}\n  hint: {}", hint(source))]
    Address {
        /// As configured.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// See [`ListenTlsError`].
    #[error(transparent)]
    Tls(#[from] ListenTlsError),
}

// === impl Gateway ===

impl Gateway {
    /// Binds to `config.listen`; the pipelines are those of `config.upstreams`, in order.
    ///
    /// # Errors
    ///
    /// [`BindError`] if the address is taken or not ours, or a certificate cannot be used.
    pub async fn bind(config: &Config, pipelines: Vec<Pipeline>) -> Result<Self, BindError> {
        let tls = config
            .listen_tls
            .as_ref()
            .map(tls::server_config)
            .transpose()?;
        let failed = |source| BindError::Address {
            address: config.listen.to_string(),
            source,
        };
        let listener = match &config.listen {
            Listen::Tcp(address) => {
                Listener::Tcp(TcpListener::bind(address).await.map_err(failed)?)
            }
            Listen::Unix(path) => {
                let (listener, file) = unix_socket::bind(path.clone()).await.map_err(failed)?;
                Listener::Unix(listener, file)
            }
        };
        let (edge, routes, metrics) = edge(config, pipelines);
        Ok(Self {
            listener,
            tls,
            edge,
            routes,
            metrics,
        })
    }

    /// Serves until `shutdown` resolves, then until the answers in progress are sent.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops every connection at once.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let connections = TaskTracker::new();
        let drain = CancellationToken::new();
        let mut shutdown = pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = &mut shutdown => break,
            };
            match accepted {
                Ok(stream) => {
                    let connection = serve_connection(
                        stream,
                        self.tls.clone().map(TlsAcceptor::from),
                        self.edge.clone(),
                        Arc::clone(&self.metrics),
                        drain.clone(),
                    );
                    connections.spawn(connection);
                }
                Err(error) => {
                    warn!(%error, "Accepting a connection failed");
                    sleep(PAUSE_AFTER_ACCEPT_ERROR).await;
                }
            }
        }
        drop(self.listener);
        self.routes.drain();
        drain.cancel();
        connections.close();
        info!(connections = connections.len(), "Draining");
        connections.wait().await;
        info!("Stopped");
    }
}

/// What a client puts before a path: `http://127.0.0.1:7223`, or `unix:` and the socket's path.
impl fmt::Display for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.listener {
            Listener::Tcp(listener) => {
                let address = listener.local_addr().map_err(|_| fmt::Error)?;
                let scheme = if self.tls.is_some() { "https" } else { "http" };
                write!(f, "{scheme}://{address}")
            }
            Listener::Unix(_, file) => write!(f, "unix:{}", file.0.display()),
        }
    }
}

async fn serve_connection(
    stream: Stream,
    tls: Option<TlsAcceptor>,
    edge: EdgeService,
    metrics: Arc<EdgeMetrics>,
    drain: CancellationToken,
) {
    let io = ClientIo::new(stream);
    let connection = io.connection();
    let hangup = io.hangup();
    let service = edge.map_request(move |mut request: http::Request<_>| {
        request.extensions_mut().insert(connection.clone());
        request
    });
    let transport = match tls {
        None => Transport::Plain(io),
        Some(tls) => {
            // The time-out for a first head is also this one's.
            let accepted = tokio::select! {
                accepted = tls.accept(io) => accepted,
                () = drain.cancelled() => return,
            };
            match accepted {
                Ok(stream) => Transport::Tls(Box::new(stream)),
                Err(error) => {
                    debug!(%error, "TLS handshake failed");
                    return;
                }
            }
        }
    };
    metrics.connections.inc();
    let io = Framed::new(transport, HeadLimits::default());
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        // ClientIo's time-outs; hyper's would also end idle connections.
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(service));
    let mut served = pin!(served);
    let to_the_end = async {
        tokio::select! {
            outcome = served.as_mut() => return outcome,
            () = drain.cancelled() => {}
        }
        served.as_mut().graceful_shutdown();
        served.await
    };
    tokio::select! {
        outcome = to_the_end => {
            if let Err(error) = outcome {
                debug!(%error, "Connection ended early");
            }
        }
        () = hangup => debug!("Client hung up"),
    }
    metrics.connections.dec();
}

// === impl Listener ===

impl Listener {
    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(Arc::new(stream)))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok(Stream::Unix(Arc::new(stream)))
            }
        }
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "something listens there already, perhaps another pacegate; stop it, or choose \
             another port with --listen (127.0.0.1:0 takes any free one)"
        }
        io::ErrorKind::AddrNotAvailable => "that address is not one of this machine's",
        io::ErrorKind::PermissionDenied => "choose a port above 1023, or a directory you may write",
        _ => "check listen in the config",
    }
}
