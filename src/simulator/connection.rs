//! A TCP connection that can be reset instead of closed.

use std::{
    io::{self, IoSlice},
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

/// Identifies a connection and can reset it.
#[derive(Debug)]
pub(super) struct ConnectionHandle {
    pub(super) id: u64,
    pub(super) peer: Option<IpAddr>,
    cut: CancellationToken,
    reset: AtomicBool,
}

/// The socket, owned by hyper or rustls; resets on drop if its handle says so.
#[derive(Debug)]
pub(super) struct ResettableTcp {
    connection: Arc<ConnectionHandle>,
    tcp: TcpStream,
}

// === impl ConnectionHandle ===

impl ConnectionHandle {
    /// The handle of `tcp`; `stop` closes the connection, too.
    pub(super) fn new(id: u64, tcp: &TcpStream, stop: &CancellationToken) -> Self {
        Self {
            id,
            peer: tcp.peer_addr().ok().map(|peer| peer.ip()),
            cut: stop.child_token(),
            reset: AtomicBool::new(false),
        }
    }

    /// Closes the connection with an RST; unsent bytes are lost.
    pub(super) fn reset(&self) {
        self.reset.store(true, Ordering::Release);
        self.cut.cancel();
    }

    /// Completes when the connection has to be dropped. Cancel safe.
    pub(super) async fn cut(&self) {
        self.cut.cancelled().await;
    }
}

// === impl ResettableTcp ===

impl ResettableTcp {
    pub(super) fn new(tcp: TcpStream, connection: Arc<ConnectionHandle>) -> Self {
        Self { connection, tcp }
    }
}

impl Drop for ResettableTcp {
    fn drop(&mut self) {
        // hyper (or rustls) owns the socket until the end, so the linger time can only be set here.
        // It fails if the peer has already closed the connection, which needs no RST.
        if self.connection.reset.load(Ordering::Acquire) {
            let _gone = self.tcp.set_zero_linger();
        }
    }
}

impl AsyncRead for ResettableTcp {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buffer)
    }
}

impl AsyncWrite for ResettableTcp {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }
}
