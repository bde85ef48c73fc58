//! A client's connection: how long it may be silent, and how it ends when a stream breaks.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
    time::{Sleep, sleep},
};
use tokio_util::{either::Either, sync::CancellationToken};

use super::Settings;
use crate::idle_timer::IdleTimer;

/// A client's socket.
pub(super) type Socket = Either<TcpStream, UnixStream>;

/// What the edge knows about the connection of a request; an extension of the request.
#[derive(Clone, Debug)]
pub(crate) struct Connection(Arc<ConnectionState>);

#[derive(Debug)]
struct ConnectionState {
    number: u64,
    name: Arc<str>,
    phase: AtomicU8,
    broken: AtomicBool,
    is_read_closed: AtomicBool,
    /// Over `max-connections`, or evicted: every request on it gets 503.
    is_over_limit: AtomicBool,
    /// A write waits for the client. hyper drops a response body once its last bytes are in hyper's
    /// buffer, so the phase may be `Idle` although bytes are unsent.
    write_pending: AtomicBool,
    /// Numbers the phase changes of the whole process: the smaller, the longer the phase has
    /// lasted.
    phase_change: AtomicU64,
    evicted: CancellationToken,
}

/// What the client is expected to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The first byte.
    New,
    /// The rest of a request head.
    Head,
    /// Nothing: a response is being made or sent. A request body has time-outs of its own.
    Busy,
    /// Perhaps another request.
    Idle,
}

/// A response in progress; dropping the guard makes the connection idle.
#[derive(Debug)]
pub(super) struct ResponseGuard(Connection);

/// A client's socket. It notes when a request head begins, gives up a client that reads nothing of
/// a response for too long, and resets the connection of a stream that broke.
#[derive(Debug)]
pub(super) struct ClientIo {
    socket: Socket,
    connection: Connection,
    write_timeout: Duration,
    /// Runs while a write waits for the client, which is rare.
    write_sleep: Option<Pin<Box<Sleep>>>,
}

// === impl Connection ===

impl Connection {
    pub(super) fn new() -> Self {
        static CONNECTIONS: AtomicU64 = AtomicU64::new(0);

        let number = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        Self(Arc::new(ConnectionState {
            number,
            name: format!("connection {number}").into(),
            phase: AtomicU8::new(Phase::New as u8),
            broken: AtomicBool::new(false),
            is_read_closed: AtomicBool::new(false),
            is_over_limit: AtomicBool::new(false),
            write_pending: AtomicBool::new(false),
            phase_change: AtomicU64::new(next_phase_change()),
            evicted: CancellationToken::new(),
        }))
    }

    /// A number that no other connection of this process has.
    pub(super) fn number(&self) -> u64 {
        self.0.number
    }

    /// A name that no other connection of this process has.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.0.name
    }

    /// A request head is complete and its response begins.
    pub(super) fn begin_response(&self) -> ResponseGuard {
        self.set(Phase::Busy);
        ResponseGuard(self.clone())
    }

    /// Resolves once the client has been silent for longer than `settings` allow.
    ///
    /// hyper has one time-out for request heads, which also runs while a kept-alive connection is
    /// idle; one limit cannot be both ten seconds and five minutes. A change of phase wakes no
    /// task: poll this in the task that serves the connection, after the serving.
    pub(super) async fn silent_too_long(&self, settings: &Settings) {
        let current = || (self.phase(), self.0.phase_change.load(Ordering::Relaxed));
        let mut timer = IdleTimer::new(settings.first_byte_timeout);
        let mut timed_phase = current();
        poll_fn(|cx| {
            let now = current();
            if now != timed_phase {
                timed_phase = now;
                timer.reset();
            }
            let limit = match now.0 {
                Phase::New => settings.first_byte_timeout,
                Phase::Head => settings.header_timeout,
                // A request body has time-outs of its own, and a response has none.
                Phase::Busy => return Poll::Pending,
                Phase::Idle => settings.keep_alive_timeout,
            };
            timer.poll_elapsed(limit, cx)
        })
        .await;
    }

    /// Makes the connection end with a reset: a response broke off, and a clean end would make it
    /// look complete.
    pub(super) fn reset_on_close(&self) {
        self.0.broken.store(true, Ordering::Relaxed);
    }

    /// Reads nothing more: an incomplete request head stays incomplete.
    pub(super) fn stop_reading(&self) {
        self.0.is_read_closed.store(true, Ordering::Relaxed);
    }

    /// Marks the connection as over the limit: its requests get 503.
    pub(super) fn mark_over_limit(&self) {
        self.0.is_over_limit.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_over_limit(&self) -> bool {
        self.0.is_over_limit.load(Ordering::Relaxed)
    }

    /// The connection with the lowest rank is evicted first; `None` is never evicted.
    pub(super) fn eviction_rank(&self) -> Option<(u8, u64)> {
        let rank = match self.phase() {
            Phase::Idle => 0,
            Phase::New | Phase::Head => 1,
            Phase::Busy => return None,
        };
        Some((rank, self.0.phase_change.load(Ordering::Relaxed)))
    }

    /// Closes the connection to free its slot. A request that has arrived meanwhile gets 503: a
    /// client that is evicted in the moment of its request would see a connection that breaks.
    pub(super) fn evict(&self) {
        self.mark_over_limit();
        self.0.evicted.cancel();
    }

    /// Resolves when the connection is evicted.
    pub(super) fn evicted(&self) -> impl Future<Output = ()> {
        self.0.evicted.cancelled()
    }

    #[cfg(test)]
    pub(super) fn is_evicted(&self) -> bool {
        self.0.evicted.is_cancelled()
    }

    fn is_broken(&self) -> bool {
        self.0.broken.load(Ordering::Relaxed)
    }

    fn set(&self, phase: Phase) {
        // The wait for the first byte counts towards the wait for the request head.
        if phase != Phase::Head || self.phase() != Phase::New {
            self.0
                .phase_change
                .store(next_phase_change(), Ordering::Relaxed);
        }
        self.0.phase.store(phase as u8, Ordering::Relaxed);
    }

    fn phase(&self) -> Phase {
        if self.0.write_pending.load(Ordering::Relaxed) {
            return Phase::Busy;
        }
        match self.0.phase.load(Ordering::Relaxed) {
            0 => Phase::New,
            1 => Phase::Head,
            2 => Phase::Busy,
            _ => Phase::Idle,
        }
    }
}

fn next_phase_change() -> u64 {
    static CHANGES: AtomicU64 = AtomicU64::new(0);

    CHANGES.fetch_add(1, Ordering::Relaxed)
}

// === impl ResponseGuard ===

impl ResponseGuard {
    /// See [`Connection::reset_on_close`].
    pub(super) fn reset_on_close(&self) {
        self.0.reset_on_close();
    }
}

impl Drop for ResponseGuard {
    fn drop(&mut self) {
        self.0.set(Phase::Idle);
    }
}

// === impl ClientIo ===

impl ClientIo {
    pub(super) fn new(socket: Socket, connection: Connection, write_timeout: Duration) -> Self {
        Self {
            socket,
            connection,
            write_timeout,
            write_sleep: None,
        }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let phase = self.connection.phase();
        if phase != Phase::Busy && self.connection.0.is_read_closed.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let read = Pin::new(&mut self.socket).poll_read(cx, buf);
        if read.is_ready() && matches!(phase, Phase::New | Phase::Idle) {
            self.connection.set(Phase::Head);
        }
        read
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = Pin::new(&mut this.socket).poll_write(cx, buf);
        let pending = &this.connection.0.write_pending;
        pending.store(written.is_pending(), Ordering::Relaxed);
        if written.is_ready() {
            this.write_sleep = None;
            return written;
        }
        let limit = this.write_timeout;
        let sleep = this
            .write_sleep
            .get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(sleep.as_mut().poll(cx));
        // After an orderly end the system would keep sending data that the client does not read.
        this.connection.reset_on_close();
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.connection.is_broken() {
            // No orderly end; the socket is reset when it is dropped.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl Drop for ClientIo {
    fn drop(&mut self) {
        if self.connection.is_broken()
            && let Either::Left(tcp) = &self.socket
        {
            // If it fails the client sees a FIN in the middle of a chunked body: an error too.
            let _best_effort = tcp.set_zero_linger();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::{Instant, timeout},
    };

    use super::*;

    const FIRST_BYTE: Duration = Duration::from_secs(9);
    const HEADER: Duration = Duration::from_secs(10);
    const KEEP_ALIVE: Duration = Duration::from_secs(310);
    const WRITE: Duration = Duration::from_secs(60);

    fn settings() -> Settings {
        Settings {
            tls: None,
            max_connections: 1,
            max_head: 0,
            first_byte_timeout: FIRST_BYTE,
            header_timeout: HEADER,
            keep_alive_timeout: KEEP_ALIVE,
            write_timeout: WRITE,
            drain_timeout: WRITE,
        }
    }

    fn pair() -> (ClientIo, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let ours = Either::Right(ours);
        (ClientIo::new(ours, Connection::new(), WRITE), theirs)
    }

    /// Reads until the client has been silent for too long, and returns how long that took.
    async fn served_for(io: &mut ClientIo) -> Duration {
        let start = Instant::now();
        let (connection, settings) = (io.connection.clone(), settings());
        let reading = async { while io.read(&mut [0; 64]).await.unwrap() > 0 {} };
        tokio::select! {
            biased;
            () = reading => {}
            () = connection.silent_too_long(&settings) => {}
        }
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_is_given_up() {
        let (mut io, _client) = pair();
        assert_eq!(served_for(&mut io).await, FIRST_BYTE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickling_head_is_cut_off() {
        let (mut io, mut client) = pair();
        let start = Instant::now();
        let trickle = async {
            for _ in 0..4 {
                client.write_all(b"G").await.unwrap();
                sleep(HEADER / 4).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = trickle => {}
            _ = served_for(&mut io) => {}
        }
        assert_eq!(start.elapsed(), HEADER);
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_connection_has_no_limit_and_an_idle_one_has_keep_alive() {
        let (mut io, mut client) = pair();
        client.write_all(b"x").await.unwrap();
        io.read_u8().await.unwrap();
        let guard = io.connection.begin_response();
        timeout(Duration::from_secs(3600), served_for(&mut io))
            .await
            .unwrap_err();
        drop(guard);
        assert_eq!(served_for(&mut io).await, KEEP_ALIVE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_is_given_up_a_slow_one_is_not() {
        let (mut io, mut client) = pair();
        let response = vec![0; 16 << 20];
        let reading = async {
            // More than a socket buffers before it accepts more.
            let mut buffer = vec![0; 1 << 20];
            for _ in 0..3 {
                sleep(WRITE - Duration::from_secs(1)).await;
                client.read_exact(&mut buffer).await.unwrap();
            }
            std::future::pending::<()>().await;
        };
        let start = Instant::now();
        let error = tokio::select! {
            written = io.write_all(&response) => written.unwrap_err(),
            () = reading => unreachable!(),
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed(), 4 * WRITE - Duration::from_secs(3));
        assert!(io.connection.0.broken.load(Ordering::Relaxed));
    }
}
