//! All connections to one origin, and which one a request gets.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use pacegate_layers::error::BoxError;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::{
    connector::{Connector, StageTracker},
    error::{ConnectTimeout, Stage},
    h1, h2,
    pool::Pool,
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
