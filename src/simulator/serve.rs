//! The accept loop and one task for each connection.

use std::{
    future::Future,
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hyper::{
    rt::Executor,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    SimulatorState,
    connection::{ConnectionHandle, ObservedIo, ResettableTcp},
    route::{self, pause},
};

/// Accepts and serves the connections of one simulator.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) state: Arc<SimulatorState>,
    pub(super) stop: CancellationToken,
    pub(super) tracker: TaskTracker,
}

/// Spawns hyper's HTTP/2 streams on the tracker, so that a shutdown waits for them.
#[derive(Clone)]
struct TrackedExecutor {
    stop: CancellationToken,
    tracker: TaskTracker,
}

/// A connection with or without TLS, boxed so that hyper's server is compiled once.
trait ConnectionIo: AsyncRead + AsyncWrite + Send + Unpin {}

/// Counts an open connection until it is dropped.
struct OpenConnection<'a>(&'a AtomicUsize);

/// The first bytes of an HTTP/2 connection with prior knowledge (RFC 9113, section 3.4).
const PREFACE_START: &[u8] = b"PRI ";

/// Pause after a failed accept: the likely cause is a lack of descriptors, and a retry would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

// === impl Server ===

impl Server {
    /// Accepts connections until `stop` is cancelled.
    pub(super) async fn accept(self, listener: TcpListener, tls: Option<TlsAcceptor>) {
        for id in 1.. {
            let tcp = tokio::select! {
                () = self.stop.cancelled() => return,
                tcp = next(&listener) => tcp,
            };
            let server = self.clone();
            let tls = tls.clone();
            let options = &server.state.options.connections;
            let connection = Arc::new(ConnectionHandle::new(id, &tcp, options, &server.stop));
            self.tracker.spawn(async move {
                let _open = OpenConnection::new(&server.state.connections);
                tokio::select! {
                    () = connection.cut() => {}
                    // How the connection ended is recorded with its requests.
                    _ended = server.connection(tcp, tls, Arc::clone(&connection)) => {}
                }
            });
        }
    }

    async fn connection(
        &self,
        tcp: TcpStream,
        tls: Option<TlsAcceptor>,
        connection: Arc<ConnectionHandle>,
    ) -> io::Result<()> {
        tcp.set_nodelay(true)?;
        let Some(tls) = tls else {
            let mut start = [0; PREFACE_START.len()];
            let seen = tcp.peek(&mut start).await?;
            let h2 = start.get(..seen) == Some(PREFACE_START);
            let tcp = ResettableTcp::new(tcp, Arc::clone(&connection));
            return self.http(Box::new(tcp), h2, connection).await;
        };
        let options = &self.state.options.connections;
        if options
            .slow_handshakes
            .is_none_or(|slow| connection.id <= slow)
        {
            pause(options.handshake_delay).await;
        }
        let stream = tls
            .accept(ResettableTcp::new(tcp, Arc::clone(&connection)))
            .await?;
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        self.http(Box::new(stream), h2, connection).await
    }

    async fn http(
        &self,
        stream: Box<dyn ConnectionIo>,
        h2: bool,
        connection: Arc<ConnectionHandle>,
    ) -> io::Result<()> {
        let service = service_fn(|request| {
            // Before the future runs, which over HTTP/2 is a task of its own.
            let arrived_at = connection.arrived_at(h2);
            let state = Arc::clone(&self.state);
            route::respond(state, Arc::clone(&connection), request, arrived_at)
        });
        let options = &self.state.options.connections;
        let delay = if h2 {
            options.settings_delay
        } else {
            Duration::ZERO
        };
        let stream = TokioIo::new(ObservedIo::new(stream, Arc::clone(&connection), delay));
        if h2 {
            let executor = TrackedExecutor {
                stop: self.stop.clone(),
                tracker: self.tracker.clone(),
            };
            let mut builder = http2::Builder::new(executor);
            if let Some(most) = options.max_concurrent_streams {
                builder.max_concurrent_streams(most);
            }
            let mut serving = pin!(builder.serve_connection(stream, service));
            tokio::select! {
                ended = &mut serving => ended,
                () = connection.last_request() => {
                    serving.as_mut().graceful_shutdown();
                    serving.await
                }
            }
        } else {
            http1::Builder::new()
                .serve_connection(stream, service)
                .await
        }
        .map_err(io::Error::other)
    }
}

// === impl ConnectionIo ===

impl<S: AsyncRead + AsyncWrite + Send + Unpin> ConnectionIo for S {}

// === impl TrackedExecutor ===

impl<F> Executor<F> for TrackedExecutor
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let stop = self.stop.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                _done = stream => {}
            }
        });
    }
}

// === impl OpenConnection ===

impl<'a> OpenConnection<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn next(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((tcp, _peer)) => return tcp,
            Err(_refused) => time::sleep(ACCEPT_PAUSE).await,
        }
    }
}
