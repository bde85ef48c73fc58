//! The accept loop, from binding to the end of the last answer.

use std::{
    fmt, fs, io, os::unix::fs::PermissionsExt, path::PathBuf, pin::pin, sync::Arc, time::Duration,
};

use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use socket2::SockRef;
use tokio::{
    net::{TcpListener, UnixListener},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;
use tracing::{debug, info, warn};

use super::{
    connection::{ClientIo, Connection},
    crowd::{Crowd, Member},
    current::{Current, Reloader},
    head_size::HeadSize,
    stream::Stream,
};
use crate::{
    config::{Config, Limits, Listen},
    metrics::EdgeMetrics,
    pipeline::Pipeline,
};

/// When no socket can be accepted because descriptors ran out, some have to be closed first.
const PAUSE_AFTER_ACCEPT_ERROR: Duration = Duration::from_millis(100);

/// What the system keeps of an answer that its client does not read. Left to itself it takes up to
/// 4 MiB, and 500 slow readers keep everybody busy with filling that. Connections inherit it.
const SEND_BUFFER: usize = 128 * 1024;

/// A gateway that is bound to its address and accepts nobody yet.
#[derive(Debug)]
pub struct Gateway {
    listener: Listener,
    current: Current,
}

/// One connection, counted as such until dropped.
struct Counted(Arc<EdgeMetrics>);

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// Removes the socket's file when dropped.
#[derive(Debug)]
struct SocketFile(PathBuf);

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}\n  hint: {}", hint(source))]
pub struct BindError {
    address: String,
    source: io::Error,
}

// === impl Gateway ===

impl Gateway {
    /// Binds to `config.listen`; the pipelines are those of `config.upstreams`, in order.
    ///
    /// # Errors
    ///
    /// [`BindError`] if the address is taken or not ours.
    pub async fn bind(config: &Config, pipelines: Vec<Pipeline>) -> Result<Self, BindError> {
        let failed = |source| BindError {
            address: config.listen.to_string(),
            source,
        };
        let listener = match &config.listen {
            Listen::Tcp(address) => {
                let listener = TcpListener::bind(address).await.map_err(failed)?;
                SockRef::from(&listener)
                    .set_send_buffer_size(SEND_BUFFER)
                    .map_err(failed)?;
                Listener::Tcp(listener)
            }
            Listen::Unix(path) => bind_unix(path.clone()).await.map_err(failed)?,
        };
        Ok(Self {
            listener,
            current: Current::new(config, pipelines),
        })
    }

    /// For a reload, before or while it serves.
    pub fn reloader(&self) -> Reloader {
        self.current.reloader()
    }

    /// Serves until `shutdown` resolves, then until the answers in progress are sent or
    /// `drain-timeout` has passed. Whoever waits for a turn then is told so; what is no whole
    /// request yet is not waited for.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops every connection at once.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let connections = TaskTracker::new();
        let draining = self.current.draining().clone();
        let cut_off = CancellationToken::new();
        let crowd = Crowd::default();
        let mut shutdown = pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = &mut shutdown => break,
            };
            match accepted {
                Ok(stream) => {
                    let (current, cut_off) = (self.current.clone(), cut_off.clone());
                    let connection = Connection::new();
                    let most = current.limits().max_connections;
                    let Some(member) = crowd.enter(&connection, most) else {
                        debug!("No room for a connection");
                        continue;
                    };
                    connections.spawn(serve_connection(
                        stream, connection, member, current, cut_off,
                    ));
                }
                Err(error) => {
                    warn!(%error, "Accepting a connection failed");
                    sleep(PAUSE_AFTER_ACCEPT_ERROR).await;
                }
            }
        }
        drop(self.listener);
        draining.cancel();
        connections.close();
        let limit = self.current.drain_timeout();
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
}

/// What a client puts before a path: `http://127.0.0.1:7223`, or `unix:` and the socket's path.
impl fmt::Display for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.listener {
            Listener::Tcp(listener) => {
                let address = listener.local_addr().map_err(|_| fmt::Error)?;
                write!(f, "http://{address}")
            }
            Listener::Unix(_, file) => write!(f, "unix:{}", file.0.display()),
        }
    }
}

async fn serve_connection(
    stream: Stream,
    connection: Connection,
    _member: Member,
    current: Current,
    cut_off: CancellationToken,
) {
    let _counted = Counted::new(current.metrics());
    let draining = current.draining().clone();
    let limits = current.limits();
    let io = ClientIo::new(stream, connection.clone(), &limits);
    let hangup = io.hangup();
    let named = connection.clone();
    let head_size = HeadSize::new(&limits);
    let service = current.map_request(move |mut request: http::Request<_>| {
        request.extensions_mut().insert(named.clone());
        if let Some(too_large) = head_size.refuses(&request) {
            request.extensions_mut().insert(too_large);
        }
        request
    });
    // Pinned where it is made: a connection is large, and would be kept twice.
    let mut served = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            // ClientIo's time-outs; hyper's would also end idle connections.
            .header_read_timeout(None)
            // Whoever is told that there is no room gives it up.
            .keep_alive(!connection.overcrowds())
            .max_buf_size(buffer(&limits))
            .serve_connection(TokioIo::new(io), TowerToHyperService::new(service))
    );
    let to_the_end = async {
        tokio::select! {
            outcome = served.as_mut() => return outcome,
            () = draining.cancelled() => {}
        }
        connection.end();
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
        () = connection.evicted() => debug!("Making room for another connection"),
        () = cut_off.cancelled() => connection.reset_at_the_end(),
    }
}

/// How much of a head, a body or an answer lies in a connection's buffers at most. Whole heads have
/// to fit in; more only keeps memory.
fn buffer(limits: &Limits) -> usize {
    /// The request line beside its target, and what ends the head.
    const LINE: usize = 64;
    const LEAST: usize = 64 * 1024;
    limits
        .max_header_size
        .saturating_add(limits.max_target)
        .saturating_add(LINE)
        .max(LEAST)
}

// === impl Counted ===

impl Counted {
    fn new(metrics: &Arc<EdgeMetrics>) -> Self {
        metrics.connections.inc();
        Self(Arc::clone(metrics))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.dec();
    }
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

/// Binds to a socket file that only its owner may use. A file that a crashed process left behind,
/// on which nobody listens, is replaced.
async fn bind_unix(path: PathBuf) -> io::Result<Listener> {
    let listener = match UnixListener::bind(&path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(&path).await => {
            fs::remove_file(&path)?;
            UnixListener::bind(&path)?
        }
        bound => bound?,
    };
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(Listener::Unix(listener, SocketFile(path)))
}

async fn is_stale(path: &PathBuf) -> bool {
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    tokio::net::UnixStream::connect(path)
        .await
        .err()
        .is_some_and(refused)
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Already gone is as good.
        let _gone = fs::remove_file(&self.0);
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
