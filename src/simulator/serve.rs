//! The accept loop and one task for each connection.

use std::{
    convert::Infallible,
    future::Future,
    io,
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
    Shared, route,
    wire::{Line, Wire},
};

/// What every task of one simulator needs.
#[derive(Clone)]
pub(super) struct House {
    pub(super) shared: Arc<Shared>,
    pub(super) stop: CancellationToken,
    pub(super) tracker: TaskTracker,
}

/// Runs hyper's HTTP/2 streams where a shutdown waits for them.
#[derive(Clone)]
struct Tracked {
    stop: CancellationToken,
    tracker: TaskTracker,
}

/// A connection with or without TLS: what serves it is large, and is built once.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

/// Counts an open connection for as long as it lives.
struct Counted<'a>(&'a AtomicUsize);

/// How an HTTP/2 connection with prior knowledge begins (RFC 9113, section 3.4).
const PREFACE_START: &[u8] = b"PRI ";

/// Pause after a failed accept: out of descriptors, most likely, and asking again at once spins.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

// === impl House ===

impl House {
    /// Accepts connections until told to stop.
    pub(super) async fn accept(self, listener: TcpListener, tls: Option<TlsAcceptor>) {
        for id in 1.. {
            let tcp = tokio::select! {
                () = self.stop.cancelled() => return,
                tcp = next(&listener) => tcp,
            };
            let house = self.clone();
            let tls = tls.clone();
            self.tracker.spawn(async move {
                let _counted = Counted::new(&house.shared.connections);
                let line = Arc::new(Line::new(id, &tcp, &house.stop));
                tokio::select! {
                    () = line.cut() => {}
                    // A connection's end, however it comes, is in the record of its requests.
                    _ended = house.connection(tcp, tls, Arc::clone(&line)) => {}
                }
            });
        }
    }

    async fn connection(
        &self,
        tcp: TcpStream,
        tls: Option<TlsAcceptor>,
        line: Arc<Line>,
    ) -> io::Result<()> {
        tcp.set_nodelay(true)?;
        let Some(tls) = tls else {
            let mut start = [0; PREFACE_START.len()];
            let seen = tcp.peek(&mut start).await?;
            let h2 = start.get(..seen) == Some(PREFACE_START);
            let wire = Wire::new(tcp, Arc::clone(&line));
            return self.http(Box::new(wire), h2, line).await;
        };
        let stream = tls.accept(Wire::new(tcp, Arc::clone(&line))).await?;
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        self.http(Box::new(stream), h2, line).await
    }

    async fn http(&self, stream: Box<dyn Stream>, h2: bool, line: Arc<Line>) -> io::Result<()> {
        let service = service_fn(|request| {
            let shared = Arc::clone(&self.shared);
            let line = Arc::clone(&line);
            async move { Ok::<_, Infallible>(route::answer(shared, line, request).await) }
        });
        let stream = TokioIo::new(stream);
        if h2 {
            let executor = Tracked {
                stop: self.stop.clone(),
                tracker: self.tracker.clone(),
            };
            http2::Builder::new(executor)
                .serve_connection(stream, service)
                .await
        } else {
            http1::Builder::new()
                .serve_connection(stream, service)
                .await
        }
        .map_err(io::Error::other)
    }
}

// === impl Stream ===

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

// === impl Tracked ===

impl<F> Executor<F> for Tracked
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

// === impl Counted ===

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
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
