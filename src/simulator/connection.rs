//! A TCP connection that can be reset instead of closed, and what is observed and held up above TLS.

use std::{
    io::{self, IoSlice},
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use parking_lot::Mutex;

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{self, Instant, Sleep},
};
use tokio_util::sync::CancellationToken;

/// How connections are set up, and when they end. By default nothing is slow and nothing ends.
#[derive(Clone, Debug, Default)]
pub struct ConnectionOptions {
    /// Delay before the server's part of a TLS handshake.
    pub handshake_delay: Duration,
    /// How many connections have that delay, the first ones; all without a number.
    pub slow_handshakes: Option<u64>,
    /// SETTINGS_MAX_CONCURRENT_STREAMS of an HTTP/2 connection; without a number, hyper's default.
    pub max_concurrent_streams: Option<u32>,
    /// How long all that the server writes on an HTTP/2 connection is held back after the connection
    /// is there; its SETTINGS are the first of it. Requests are read meanwhile.
    pub settings_delay: Duration,
    /// The last request of a connection, counted from 1: over HTTP/2 it is followed by a graceful
    /// GOAWAY, over HTTP/1.1 answered with `connection: close`.
    pub max_requests: Option<usize>,
    /// After so many requests nothing more is read from a connection, and it stays open. The answers
    /// to these requests are sent.
    pub silent_after: Option<usize>,
}

/// Identifies a connection, says when a request's first byte was read, and can reset it.
#[derive(Debug)]
pub(super) struct ConnectionHandle {
    pub(super) id: u64,
    pub(super) peer: Option<IpAddr>,
    cut: CancellationToken,
    /// Cancelled at the last request of the connection.
    last_request: CancellationToken,
    max_requests: Option<usize>,
    reads: Mutex<Reads>,
    received: AtomicUsize,
    reset: AtomicBool,
    silent_after: Option<usize>,
}

/// When bytes were read.
#[derive(Debug, Default)]
struct Reads {
    /// The first read since the last request was complete.
    first: Option<Instant>,
    last: Option<Instant>,
}

/// A connection above TLS: notes when bytes are read, and stops reading or holds back what is written.
#[derive(Debug)]
pub(super) struct ObservedIo<S> {
    connection: Arc<ConnectionHandle>,
    held: Option<HeldWrites>,
    io: S,
}

#[derive(Debug)]
struct HeldWrites {
    bytes: BytesMut,
    until: Pin<Box<Sleep>>,
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
    pub(super) fn new(
        id: u64,
        tcp: &TcpStream,
        options: &ConnectionOptions,
        stop: &CancellationToken,
    ) -> Self {
        Self {
            id,
            peer: tcp.peer_addr().ok().map(|peer| peer.ip()),
            cut: stop.child_token(),
            last_request: CancellationToken::new(),
            max_requests: options.max_requests,
            reads: Mutex::default(),
            received: AtomicUsize::new(0),
            reset: AtomicBool::new(false),
            silent_after: options.silent_after,
        }
    }

    /// When the first byte of the request arrived whose headers are complete now. Over HTTP/2 it is
    /// the last read, because frames of several streams arrive together.
    pub(super) fn arrived_at(&self, h2: bool) -> Instant {
        let mut reads = self.reads.lock();
        let first = reads.first.take().filter(|_| !h2);
        first.or(reads.last).unwrap_or_else(Instant::now)
    }

    /// Counts a request that is complete.
    pub(super) fn request_received(&self) {
        self.reads.lock().first = None;
        let received = self.received.fetch_add(1, Ordering::AcqRel) + 1;
        if self.max_requests.is_some_and(|most| received >= most) {
            self.last_request.cancel();
        }
    }

    /// Completes at the last request of the connection. Cancel safe.
    pub(super) async fn last_request(&self) {
        self.last_request.cancelled().await;
    }

    /// Whether the connection ends with the request that was received last.
    pub(super) fn is_at_last_request(&self) -> bool {
        self.last_request.is_cancelled()
    }

    fn is_silent(&self) -> bool {
        let received = self.received.load(Ordering::Acquire);
        self.silent_after.is_some_and(|most| received >= most)
    }

    fn bytes_read(&self) {
        let now = Instant::now();
        let mut reads = self.reads.lock();
        reads.first.get_or_insert(now);
        reads.last = Some(now);
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

// === impl ObservedIo ===

impl<S> ObservedIo<S> {
    /// What is written within `delay` from now on is sent after it.
    pub(super) fn new(io: S, connection: Arc<ConnectionHandle>, delay: Duration) -> Self {
        let held = (!delay.is_zero()).then(|| HeldWrites {
            bytes: BytesMut::new(),
            until: Box::pin(time::sleep(delay)),
        });
        Self {
            connection,
            held,
            io,
        }
    }
}

impl<S: AsyncWrite + Unpin> ObservedIo<S> {
    /// Sends what was held back, once its time has come.
    fn poll_release(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(held) = &mut self.held else {
            return Poll::Ready(Ok(()));
        };
        ready!(held.until.as_mut().poll(cx));
        while held.bytes.has_remaining() {
            let sent = ready!(Pin::new(&mut self.io).poll_write(cx, &held.bytes))?;
            held.bytes.advance(sent);
        }
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.held = None;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for ObservedIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // hyper always reads, so this is where the delay is waited for.
        if let Poll::Ready(Err(error)) = self.poll_release(cx) {
            return Poll::Ready(Err(error));
        }
        // Nothing wakes the reader again: the bytes stay in the socket.
        if self.connection.is_silent() {
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.connection.bytes_read();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ObservedIo<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Err(error)) = self.poll_release(cx) {
            return Poll::Ready(Err(error));
        }
        match &mut self.held {
            Some(held) => {
                held.bytes.extend_from_slice(bytes);
                Poll::Ready(Ok(bytes.len()))
            }
            None => Pin::new(&mut self.io).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.poll_release(cx) {
            Poll::Pending => Poll::Ready(Ok(())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) => Pin::new(&mut self.io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_release(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
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
