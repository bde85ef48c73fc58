//! Sockets that clients connect to.

use std::{fmt, io, net::SocketAddr, path::PathBuf};

use socket2::SockRef;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::either::Either;

use super::{
    connection::Socket,
    tls::ListenTlsError,
    unix_socket::{self, SocketFile},
};

/// A bound socket that listens.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// pacegate cannot listen for clients.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address cannot be bound.
    #[error("cannot listen on {address}: {reason}\n  hint: {}", hint(reason))]
    Address {
        /// The address as configured.
        address: String,
        /// The cause.
        reason: io::Error,
    },
    /// See [`ListenTlsError`].
    #[error(transparent)]
    Tls(#[from] ListenTlsError),
}

/// How much of a response the system buffers for a client that does not read. The default grows to
/// 4 MiB, and filling that for 500 slow readers keeps pacegate busy. Connections inherit it.
const SEND_BUFFER: usize = 128 * 1024;

impl Listener {
    /// Binds to `address`; port 0 is any free one.
    ///
    /// # Errors
    ///
    /// If the address is taken or not this machine's.
    pub(crate) async fn tcp(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        SockRef::from(&listener).set_send_buffer_size(SEND_BUFFER)?;
        Ok(Self::Tcp(listener))
    }

    /// Binds to a file that only its owner may use, and that is removed when the listener is
    /// dropped.
    ///
    /// # Errors
    ///
    /// If another process listens there, or the file cannot be created.
    pub(crate) async fn unix(path: PathBuf) -> io::Result<Self> {
        let (listener, file) = unix_socket::bind(path).await?;
        Ok(Self::Unix(listener, file))
    }

    pub(super) async fn accept(&self) -> io::Result<Socket> {
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

/// Whether the process, or the whole system, has no free file descriptor.
pub(crate) fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// `127.0.0.1:7223`, or `unix:` and the socket's path.
impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(listener) => {
                let address = listener.local_addr().map_err(|_| fmt::Error)?;
                write!(f, "{address}")
            }
            Self::Unix(_, file) => write!(f, "unix:{}", file.0.display()),
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
