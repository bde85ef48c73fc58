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

/// A request's hold on its connection.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) id: u64,
    pub(super) peer: Option<IpAddr>,
    cut: CancellationToken,
    reset: AtomicBool,
}

/// The socket, wherever TLS and hyper have put it.
#[derive(Debug)]
pub(super) struct Wire {
    line: Arc<Line>,
    tcp: TcpStream,
}

// === impl Line ===

impl Line {
    /// A connection's line; `stop` cuts it too.
    pub(super) fn new(id: u64, tcp: &TcpStream, stop: &CancellationToken) -> Self {
        Self {
            id,
            peer: tcp.peer_addr().ok().map(|peer| peer.ip()),
            cut: stop.child_token(),
            reset: AtomicBool::new(false),
        }
    }

    /// Ends the connection with an RST; bytes not yet sent are lost.
    pub(super) fn reset(&self) {
        self.reset.store(true, Ordering::Release);
        self.cut.cancel();
    }

    /// Completes when the connection has to be dropped. Cancel safe.
    pub(super) async fn cut(&self) {
        self.cut.cancelled().await;
    }
}

// === impl Wire ===

impl Wire {
    pub(super) fn new(tcp: TcpStream, line: Arc<Line>) -> Self {
        Self { line, tcp }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // The socket sits inside hyper (and rustls) until the end, so the linger time can only be
        // set here. A socket that the peer has already closed needs none.
        if self.line.reset.load(Ordering::Acquire) {
            let _gone = self.tcp.set_zero_linger();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Wire {
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
