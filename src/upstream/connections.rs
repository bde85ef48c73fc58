//! All connections to one origin, and which of them a request gets.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use pacegate_layers::error::BoxError;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::{
    connect::Connector,
    error::{ConnectTimeout, Stage},
    h1, h2,
    pool::Pool,
};
use crate::config::HttpVersion;

/// The connections to one origin. They close when the last request that uses them is over and the
/// client has turned to another origin.
pub(super) struct Connections {
    pub(super) connector: Connector,
    pub(super) idle: Arc<Pool>,
    shared: h2::Shared,
    /// Held while connecting to an origin that may speak HTTP/2: those who come meanwhile share
    /// the outcome instead of opening one connection each.
    connecting: tokio::sync::Mutex<()>,
    /// What ALPN said last; an origin that speaks HTTP/1.1 is connected to in parallel.
    speaks_h1: AtomicBool,
    open: Arc<AtomicUsize>,
    tasks: TaskTracker,
}

/// Counts a connection as open while it lives.
pub(super) struct Open(Arc<AtomicUsize>);

/// A connection that a request may be sent on.
pub(super) enum Connected {
    H1(Box<h1::Connection>),
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
            shared: h2::Shared::default(),
            connecting: tokio::sync::Mutex::default(),
            speaks_h1: AtomicBool::new(speaks_h1),
            open,
            tasks,
        }
    }

    /// The connection that all requests share, if there is one.
    pub(super) fn shared(&self) -> Option<h2::Sender> {
        self.shared.current()
    }

    /// A new connection, or the shared one that somebody else has opened meanwhile. The wait for
    /// that counts towards the time-out, else a crowd would time out one after the other.
    ///
    /// # Errors
    ///
    /// `NotSent` around a `ConnectError`, or a `CertificateError`.
    pub(super) async fn connect(&self) -> Result<Connected, BoxError> {
        let mut stage = Stage::Connect;
        let limit = self.connector.timeout;
        timeout(limit, self.share_or_open(&mut stage))
            .await
            .unwrap_or_else(|_elapsed| Err(ConnectTimeout(limit).into()))
            .map_err(|error| self.connector.explain(stage, error))
    }

    async fn share_or_open(&self, stage: &mut Stage) -> Result<Connected, BoxError> {
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

    async fn open(&self, stage: &mut Stage) -> Result<Connected, BoxError> {
        let stream = self.connector.connect(stage).await?;
        let open = Open::new(&self.open);
        let limits = self.connector.limits;
        let h2 = self.connector.speaks_h2(&stream);
        if self.connector.http == HttpVersion::Auto {
            self.speaks_h1.store(!h2, Ordering::Relaxed);
        }
        if !h2 {
            let connection = h1::Connection::new(stream, limits, open);
            return Ok(Connected::H1(Box::new(connection)));
        }
        *stage = Stage::Http2;
        let sender = h2::handshake(stream, limits.max_head, open, &self.tasks).await?;
        self.shared.replace(sender.clone());
        Ok(Connected::H2(sender))
    }
}

// === impl Open ===

impl Open {
    pub(super) fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
