//! The accept loop, from binding to the end of the last answer.

use std::{fmt, io, pin::pin, time::Duration};

use socket2::SockRef;
use tokio::{
    net::{TcpListener, UnixListener},
    time::{sleep, timeout},
};
use tokio_util::{either::Either, sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use super::reload::{ReloadableEdge, Reloader};
use crate::{
    config::{Config, Listen},
    server::{Connection, ConnectionLimit, ListenTlsError, Socket, SocketFile, bind_unix, serve},
    upstreams::Pipeline,
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
    current: ReloadableEdge,
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
    #[error("cannot listen on {address}: {reason}\n  hint: {}", hint(reason))]
    Address {
        /// As configured.
        address: String,
        /// Why not.
        reason: io::Error,
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
        let current = ReloadableEdge::new(config, pipelines)?;
        let failed = |reason| BindError::Address {
            address: config.listen.to_string(),
            reason,
        };
        let listener = match &config.listen {
            Listen::Tcp(address) => {
                let listener = TcpListener::bind(address).await.map_err(failed)?;
                SockRef::from(&listener)
                    .set_send_buffer_size(SEND_BUFFER)
                    .map_err(failed)?;
                Listener::Tcp(listener)
            }
            Listen::Unix(path) => {
                let (listener, file) = bind_unix(path.clone()).await.map_err(failed)?;
                Listener::Unix(listener, file)
            }
        };
        Ok(Self { listener, current })
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
        let limit_of_connections = ConnectionLimit::default();
        let mut shutdown = pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = &mut shutdown => break,
            };
            match accepted {
                Ok(socket) => {
                    let connection = Connection::new();
                    let most = self.current.limits().max_connections;
                    let Some(slot) = limit_of_connections.enter(&connection, most) else {
                        debug!("No room for a connection");
                        continue;
                    };
                    let (current, cut_off) = (self.current.clone(), cut_off.clone());
                    connections.spawn(async move {
                        // Its place is free when it has ended.
                        let _slot = slot;
                        serve(socket, connection, current, cut_off).await;
                    });
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
                let scheme = if self.current.tls().is_some() {
                    "https"
                } else {
                    "http"
                };
                write!(f, "{scheme}://{address}")
            }
            Listener::Unix(_, file) => write!(f, "unix:{}", file.0.display()),
        }
    }
}

// === impl Listener ===

impl Listener {
    async fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Either::Left(stream))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok(Either::Right(stream))
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
