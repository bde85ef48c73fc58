//! One client's connection: how long it may be silent, and how it ends when a stream breaks.

use std::{
    io,
    net::Shutdown,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{TcpStream, UnixStream},
    sync::Notify,
    time::{Instant, Sleep, sleep, timeout},
};

/// A request head has to be complete this long after its first byte, and a new connection has to
/// begin one in this time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// OpenCode closes an idle connection of its pool after 300 s; ours must be there until then, or a
/// request of its would meet a closing socket.
const IDLE_TIMEOUT: Duration = Duration::from_secs(310);

/// How often a connection is looked at whose answer takes that long.
const HANGUP_CHECK: Duration = Duration::from_millis(250);

/// What the edge knows of the connection that a request came on; a request's extension.
#[derive(Clone, Debug)]
pub(super) struct Connection(Arc<State>);

#[derive(Debug)]
struct State {
    number: u64,
    phase: AtomicU8,
    broken: AtomicBool,
    answering: Notify,
}

/// What the client is expected to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing was sent yet on this connection.
    New,
    /// The rest of a head.
    Head,
    /// Nothing: an answer is being made or sent. A body in progress has a limit of its own.
    Busy,
    /// Another request, perhaps.
    Idle,
}

/// A client's socket.
///
/// hyper's own header time-out also runs while a kept-alive connection is idle, and one limit
/// cannot be both ten seconds and five minutes. A connection that was silent for too long reads as
/// closed.
#[derive(Debug)]
pub(super) struct ClientIo {
    stream: Stream,
    connection: Connection,
    armed: Phase,
    sleep: Pin<Box<Sleep>>,
}

/// Where clients come from. Clones are the same socket.
#[derive(Clone, Debug)]
pub(super) enum Stream {
    Tcp(Arc<TcpStream>),
    Unix(Arc<UnixStream>),
}

// === impl Connection ===

impl Connection {
    fn new() -> Self {
        static CONNECTIONS: AtomicU64 = AtomicU64::new(0);

        Self(Arc::new(State {
            number: CONNECTIONS.fetch_add(1, Ordering::Relaxed),
            phase: AtomicU8::new(Phase::New as u8),
            broken: AtomicBool::new(false),
            answering: Notify::new(),
        }))
    }

    /// A number that no other connection of this process has.
    pub(super) fn number(&self) -> u64 {
        self.0.number
    }

    /// A request's head is complete.
    pub(super) fn begin_answer(&self) {
        self.set(Phase::Busy);
        self.0.answering.notify_one();
    }

    /// An answer has been sent, or given up.
    pub(super) fn end_answer(&self) {
        self.set(Phase::Idle);
    }

    /// Makes the connection end with a reset: an answer broke off, and a clean end would look like
    /// a complete one.
    pub(super) fn reset_at_the_end(&self) {
        self.0.broken.store(true, Ordering::Relaxed);
    }

    fn is_broken(&self) -> bool {
        self.0.broken.load(Ordering::Relaxed)
    }

    fn set(&self, phase: Phase) {
        self.0.phase.store(phase as u8, Ordering::Relaxed);
    }

    fn phase(&self) -> Phase {
        match self.0.phase.load(Ordering::Relaxed) {
            0 => Phase::New,
            1 => Phase::Head,
            2 => Phase::Busy,
            _ => Phase::Idle,
        }
    }
}

// === impl ClientIo ===

impl ClientIo {
    pub(super) fn new(stream: Stream) -> Self {
        Self {
            stream,
            connection: Connection::new(),
            armed: Phase::New,
            sleep: Box::pin(sleep(HEAD_TIMEOUT)),
        }
    }

    pub(super) fn connection(&self) -> Connection {
        self.connection.clone()
    }

    /// Whether an answer broke off.
    pub(super) fn is_broken(&self) -> bool {
        self.connection.is_broken()
    }

    /// Resolves when the client has hung up during a long answer.
    ///
    /// hyper looks for that itself, but only while nothing lies in its buffer: it does not see a
    /// client that has sent the beginning of another request before it left.
    pub(super) fn hangup(&self) -> impl Future<Output = ()> + use<> {
        let (stream, connection) = (self.stream.clone(), self.connection.clone());
        async move {
            loop {
                connection.0.answering.notified().await;
                while connection.phase() == Phase::Busy {
                    sleep(HANGUP_CHECK).await;
                    if connection.phase() == Phase::Busy && stream.is_closed().await {
                        return;
                    }
                }
            }
        }
    }

    fn arm(&mut self, phase: Phase) {
        if self.armed == phase {
            return;
        }
        self.armed = phase;
        let limit = match phase {
            Phase::New | Phase::Head => HEAD_TIMEOUT,
            Phase::Idle => IDLE_TIMEOUT,
            Phase::Busy => return,
        };
        self.sleep.as_mut().reset(Instant::now() + limit);
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let read = this.stream.poll_read(cx, buf);
        let phase = this.connection.phase();
        if read.is_ready() {
            if matches!(phase, Phase::New | Phase::Idle) {
                this.connection.set(Phase::Head);
                this.arm(Phase::Head);
            }
            return read;
        }
        this.arm(phase);
        if phase == Phase::Busy {
            return Poll::Pending;
        }
        ready!(this.sleep.as_mut().poll(cx));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream.poll_write(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream.poll_write(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Nothing is kept here.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_broken() {
            // No orderly end; the socket is reset when it is dropped.
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(self.stream.shutdown())
    }
}

// === impl Stream ===

impl Stream {
    fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let read = match self {
                Self::Tcp(stream) => {
                    ready!(stream.poll_read_ready(cx))?;
                    stream.try_read_buf(buf)
                }
                Self::Unix(stream) => {
                    ready!(stream.poll_read_ready(cx))?;
                    stream.try_read_buf(buf)
                }
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read.map(drop)),
            }
        }
    }

    fn poll_write(
        &self,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            let written = match self {
                Self::Tcp(stream) => {
                    ready!(stream.poll_write_ready(cx))?;
                    stream.try_write_vectored(bufs)
                }
                Self::Unix(stream) => {
                    ready!(stream.poll_write_ready(cx))?;
                    stream.try_write_vectored(bufs)
                }
            };
            match written {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn shutdown(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => SockRef::from(&**stream).shutdown(Shutdown::Write),
            Self::Unix(stream) => SockRef::from(&**stream).shutdown(Shutdown::Write),
        }
    }

    /// Whether the other side has closed, as far as the operating system has said so already.
    async fn is_closed(&self) -> bool {
        // Ready at once while there is something to read, and when it is closed.
        let ready = async {
            match self {
                Self::Tcp(stream) => stream.ready(Interest::READABLE).await,
                Self::Unix(stream) => stream.ready(Interest::READABLE).await,
            }
        };
        let ready = timeout(Duration::ZERO, ready).await;
        ready.is_ok_and(|ready| ready.is_ok_and(|ready| ready.is_read_closed()))
    }
}

impl Drop for ClientIo {
    fn drop(&mut self) {
        if let (true, Stream::Tcp(stream)) = (self.is_broken(), &self.stream) {
            // If it fails the client sees a FIN in the middle of a chunked body: an error too.
            let _best_effort = stream.set_zero_linger();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn pair() -> (ClientIo, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (ClientIo::new(Stream::Unix(Arc::new(ours))), theirs)
    }

    /// Reads until it is closed, and says how long that took.
    async fn closed_after(io: &mut ClientIo) -> Duration {
        let start = Instant::now();
        while io.read(&mut [0; 64]).await.unwrap() > 0 {}
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_is_closed() {
        let (mut io, _client) = pair();
        assert_eq!(closed_after(&mut io).await, HEAD_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_never_ends_is_cut_off_however_it_trickles() {
        let (mut io, mut client) = pair();
        let start = Instant::now();
        let trickle = async {
            for _ in 0..4 {
                client.write_all(b"G").await.unwrap();
                sleep(HEAD_TIMEOUT / 4).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = trickle => {}
            _ = closed_after(&mut io) => {}
        }
        assert!(start.elapsed() < HEAD_TIMEOUT + HEAD_TIMEOUT / 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_connection_has_no_limit_and_an_idle_one_outlives_the_clients_pool() {
        let (mut io, mut client) = pair();
        client.write_all(b"x").await.unwrap();
        io.read_u8().await.unwrap();
        io.connection().begin_answer();
        tokio::time::timeout(Duration::from_secs(3600), closed_after(&mut io))
            .await
            .unwrap_err();
        io.connection().end_answer();
        assert_eq!(closed_after(&mut io).await, IDLE_TIMEOUT);
        assert!(IDLE_TIMEOUT > Duration::from_secs(300));
    }

    #[tokio::test]
    async fn a_hangup_is_noticed_behind_unread_bytes_but_not_between_requests() {
        let (mut io, mut client) = pair();
        let mut hangup = tokio_test::task::spawn(io.hangup());
        client.write_all(b"x").await.unwrap();
        io.read_u8().await.unwrap();
        io.connection().begin_answer();
        client.write_all(b"the next request").await.unwrap();
        tokio_test::assert_pending!(hangup.poll());
        drop(client);
        timeout(Duration::from_secs(5), hangup).await.unwrap();
    }
}
