//! All connections to one origin, and which one a request gets.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use pacegate_layers::error::BoxError;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use super::{
    connector::{Connector, StageTracker},
    error::{ConnectTimeout, Stage},
    h1::{self, H1Connection},
    h2,
};
use crate::config::HttpVersion;

/// The connections to one origin. They close when the last request on them is over and the client
/// has switched to another origin.
pub(super) struct Connections {
    pub(super) connector: Connector,
    pub(super) idle: Arc<Pool>,
    shared: h2::SharedConnection,
    /// Held while connecting to an origin that may speak HTTP/2: requests that arrive meanwhile
    /// share the connection instead of opening one each.
    connecting: tokio::sync::Mutex<()>,
    /// The latest ALPN result; connections to an HTTP/1.1 origin are opened in parallel.
    speaks_h1: AtomicBool,
    open: Arc<AtomicUsize>,
    tasks: TaskTracker,
}

/// Counts an open connection until dropped.
pub(super) struct ConnectionGuard(Arc<AtomicUsize>);

/// A connection for a request.
pub(super) enum Connected {
    H1(Box<h1::H1Connection>),
    H2(h2::Sender),
}

/// More than any preset sends at once, and enough for a repeated burst: a connection that was
/// closed too early costs a handshake. Further connections are closed.
const MAX_IDLE: usize = 256;

/// Older connections have usually been closed by the upstream, or silently forgotten by a NAT,
/// which would only show at the head time-out.
const MAX_IDLE_AGE: Duration = Duration::from_secs(90);

/// LIFO: reuses the most recent connection and lets the others expire.
#[derive(Default)]
pub(super) struct Pool(Mutex<VecDeque<Idle>>);

struct Idle {
    connection: Box<H1Connection>,
    since: Instant,
}

// === impl Connections ===

impl Connections {
    pub(super) fn new(connector: Connector, open: Arc<AtomicUsize>, tasks: TaskTracker) -> Self {
        let speaks_h1 = match connector.http {
            HttpVersion::Auto => !connector.origin.https,
            HttpVersion::H1 => true,
            HttpVersion::H2 => false,
        };
        Self {
            connector,
            idle: Arc::default(),
            shared: h2::SharedConnection::default(),
            connecting: tokio::sync::Mutex::default(),
            speaks_h1: AtomicBool::new(speaks_h1),
            open,
            tasks,
        }
    }

    /// A connection that has served a request before and still seems open.
    pub(super) fn reuse(&self) -> Option<Connected> {
        if let Some(sender) = self.shared.current() {
            return Some(Connected::H2(sender));
        }
        while let Some(mut connection) = self.idle.take() {
            if connection.is_reusable() {
                return Some(Connected::H1(connection));
            }
        }
        None
    }

    /// A new connection, or the shared one that another request has opened meanwhile. Waiting for
    /// that counts towards the time-out, or else waiting requests would time out one after the
    /// other.
    ///
    /// # Errors
    ///
    /// `NotSent` around a `ConnectError`, or a `CertificateError`.
    pub(super) async fn connect(&self) -> Result<Connected, BoxError> {
        let stage = StageTracker::default();
        let limit = self.connector.timeout;
        timeout(limit, self.share_or_open(&stage))
            .await
            .unwrap_or_else(|_elapsed| Err(ConnectTimeout(limit).into()))
            .map_err(|error| self.connector.error_at(stage.get(), error))
    }

    async fn share_or_open(&self, stage: &StageTracker) -> Result<Connected, BoxError> {
        let _turn = if self.speaks_h1.load(Ordering::Relaxed) {
            None
        } else {
            Some(self.connecting.lock().await)
        };
        match self.shared.current() {
            Some(sender) => Ok(Connected::H2(sender)),
            None => self.open(stage).await,
        }
    }

    async fn open(&self, stage: &StageTracker) -> Result<Connected, BoxError> {
        let stream = self.connector.connect(stage).await?;
        let open = ConnectionGuard::new(&self.open);
        let max_head = self.connector.max_head;
        let h2 = self.connector.speaks_h2(&stream);
        if self.connector.http == HttpVersion::Auto {
            self.speaks_h1.store(!h2, Ordering::Relaxed);
        }
        if !h2 {
            let connection = h1::H1Connection::new(stream, max_head, open).await?;
            return Ok(Connected::H1(connection));
        }
        stage.set(Stage::Http2);
        let sender = h2::handshake(stream, max_head, open, &self.tasks).await?;
        self.shared.replace(sender.clone());
        Ok(Connected::H2(sender))
    }
}

// === impl ConnectionGuard ===

impl ConnectionGuard {
    pub(super) fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Pool ===

impl Pool {
    /// The most recently used connection; the upstream may have closed it since.
    pub(super) fn take(&self) -> Option<Box<H1Connection>> {
        let mut stack = self.0.lock();
        drop_expired(&mut stack, Instant::now());
        stack.pop_back().map(|idle| idle.connection)
    }

    /// Stores a connection that is ready for another request.
    pub(super) fn put(&self, connection: Box<H1Connection>) {
        let since = Instant::now();
        let mut stack = self.0.lock();
        drop_expired(&mut stack, since);
        if stack.len() == MAX_IDLE {
            stack.pop_front();
        }
        stack.push_back(Idle { connection, since });
    }

    pub(super) fn len(&self) -> usize {
        let mut stack = self.0.lock();
        drop_expired(&mut stack, Instant::now());
        stack.len()
    }
}

/// The oldest connection is at the bottom of the stack.
fn drop_expired(stack: &mut VecDeque<Idle>, now: Instant) {
    while stack
        .front()
        .is_some_and(|idle| now.duration_since(idle.since) > MAX_IDLE_AGE)
    {
        stack.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use hyper_util::rt::TokioIo;
    use tokio::{
        net::{TcpListener, TcpStream},
        time::{advance, pause},
    };

    use super::*;
    use crate::client::connector::UpstreamStream;

    /// Connections whose other ends are closed; the pool does not check.
    async fn connections(number: usize, open: &Arc<AtomicUsize>) -> Vec<Box<H1Connection>> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut connections = Vec::new();
        for _ in 0..number {
            let tcp = TcpStream::connect(listener.local_addr().unwrap());
            let (tcp, peer) = tokio::join!(tcp, listener.accept());
            peer.unwrap();
            let stream = UpstreamStream::Http(TokioIo::new(tcp.unwrap()));
            let connection = H1Connection::new(stream, 1024, ConnectionGuard::new(open)).await;
            connections.push(connection.unwrap());
        }
        connections
    }

    #[tokio::test]
    async fn the_latest_connection_goes_first_and_expired_ones_are_closed() {
        let open = Arc::default();
        let [oldest, old, fresh] = connections(3, &open).await.try_into().ok().unwrap();
        let (address, pool) = (&raw const *fresh, Pool::default());
        pause();
        pool.put(oldest);
        pool.put(old);
        advance(MAX_IDLE_AGE / 2).await;
        pool.put(fresh);
        advance(MAX_IDLE_AGE / 2).await;
        assert_eq!(pool.len(), 3, "as old as may be");
        advance(Duration::from_millis(1)).await;
        assert_eq!((pool.len(), open.load(Ordering::Relaxed)), (1, 1));

        let fresh = pool.take().unwrap();
        assert_eq!(&raw const *fresh, address);
        assert!(pool.take().is_none());
        pool.put(fresh);
        advance(MAX_IDLE_AGE + Duration::from_millis(1)).await;
        assert!(pool.take().is_none());
        assert_eq!(open.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn over_the_limit_the_oldest_connection_is_closed() {
        crate::process::raise_descriptor_limit().unwrap();
        let (open, pool) = (Arc::default(), Pool::default());
        let mut all = connections(MAX_IDLE + 1, &open).await;
        let oldest = &raw const *all[0];
        all.drain(..).for_each(|connection| pool.put(connection));
        assert_eq!(
            (pool.len(), open.load(Ordering::Relaxed)),
            (MAX_IDLE, MAX_IDLE)
        );
        while let Some(connection) = pool.take() {
            assert_ne!(&raw const *connection, oldest);
        }
    }
}
