//! A minimal hyper proxy with HTTP/2 towards the upstream: all requests share connections, each with
//! its task. When all have as many streams as the upstream allows, another one is opened, so that no
//! request waits in hyper's queue.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::Full;
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    client::conn::http2,
    service::service_fn,
};
use hyper_util::rt::TokioExecutor;
use peers::{Io, ProxyArgs, Upstream};
use tokio::sync::Mutex;

/// The upstream and the connections to it.
struct Pool {
    upstream: Upstream,
    /// Locked while a connection is opened, so that concurrent requests share it.
    connections: Mutex<Vec<Connection>>,
}

struct Connection {
    sender: http2::SendRequest<Full<Bytes>>,
    /// Reports how many streams the upstream allows.
    driver: Arc<std::sync::Mutex<Driver>>,
    streams: Arc<AtomicUsize>,
}

type Driver = http2::Connection<Io, Full<Bytes>, TokioExecutor>;

/// The receive window of a stream. h2 closes a connection with many small unread frames, and hyper's
/// default of 2 MiB has room for too many events.
const STREAM_WINDOW: u32 = 512 * 1024;

/// Counts a stream as open until it is dropped.
struct OpenStream(Arc<AtomicUsize>);

/// The body of a response.
struct ResponseBody {
    incoming: Incoming,
    _open: OpenStream,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut args = ProxyArgs::from_args()?;
    args.tls.alpn_protocols = vec![b"h2".to_vec()];
    let pool = Arc::new(Pool {
        upstream: Upstream::new(&args.upstream, args.tls)?,
        connections: Mutex::default(),
    });
    let service = service_fn(move |request| forward(Arc::clone(&pool), request));
    peers::serve(args.listen, service).await
}

async fn forward(
    pool: Arc<Pool>,
    request: Request<Incoming>,
) -> anyhow::Result<Response<ResponseBody>> {
    let mut request = peers::collected(request).await?;
    *request.uri_mut() = pool.upstream.whole(request.uri())?;
    *request.version_mut() = Version::HTTP_2;
    let (mut sender, open) = pool.sender().await?;
    let (mut head, incoming) = sender.send_request(request).await?.into_parts();
    head.version = Version::HTTP_11;
    peers::without_hop_by_hop(&mut head.headers);
    let body = ResponseBody {
        incoming,
        _open: open,
    };
    Ok(Response::from_parts(head, body))
}

// === impl Pool ===

impl Pool {
    async fn sender(&self) -> anyhow::Result<(http2::SendRequest<Full<Bytes>>, OpenStream)> {
        let mut connections = self.connections.lock().await;
        connections.retain(|connection| !connection.sender.is_closed());
        if let Some(connection) = connections.iter().find(|connection| connection.has_room()) {
            return Ok(connection.open());
        }
        let connection = Connection::new(&self.upstream).await?;
        let opened = connection.open();
        connections.push(connection);
        Ok(opened)
    }
}

// === impl Connection ===

impl Connection {
    async fn new(upstream: &Upstream) -> anyhow::Result<Self> {
        let io = upstream.connect().await?;
        let (sender, driver) = http2::Builder::new(TokioExecutor::new())
            // Until the upstream's settings arrive.
            .initial_max_send_streams(1)
            .initial_stream_window_size(STREAM_WINDOW)
            .handshake(io)
            .await?;
        let driver = Arc::new(std::sync::Mutex::new(driver));
        let driven = Arc::clone(&driver);
        tokio::spawn(poll_fn(move |cx| {
            Pin::new(&mut *lock(&driven)).poll(cx).map(drop)
        }));
        Ok(Self {
            sender,
            driver,
            streams: Arc::default(),
        })
    }

    /// The limit is read each time, because the driver is not polled when it changes.
    fn has_room(&self) -> bool {
        self.streams.load(Ordering::Relaxed) < lock(&self.driver).current_max_send_streams()
    }

    fn open(&self) -> (http2::SendRequest<Full<Bytes>>, OpenStream) {
        self.streams.fetch_add(1, Ordering::Relaxed);
        (self.sender.clone(), OpenStream(Arc::clone(&self.streams)))
    }
}

fn lock(driver: &std::sync::Mutex<Driver>) -> MutexGuard<'_, Driver> {
    driver.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl OpenStream ===

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl ResponseBody ===

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        Pin::new(&mut self.incoming).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
