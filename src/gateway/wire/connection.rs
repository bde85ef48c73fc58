//! One client's connection: how long it may be silent, and how it ends when a stream breaks.

use std::{
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
    time::{Instant, Sleep, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{stall::Stall, stream::Stream};
use crate::config::Limits;

/// How much is read at once. hyper doubles a connection's buffer whenever a read fills it, beginning
/// with 8 KiB, and keeps it for as long as the answer takes: a thousand streams would keep the size
/// of their requests. This never fills it.
const MOST_AT_ONCE: usize = 8 * 1024 - 1;

/// What the edge knows of the connection that a request came on; a request's extension.
#[derive(Clone, Debug)]
pub(in crate::gateway) struct Connection(Arc<State>);

#[derive(Debug)]
struct State {
    number: u64,
    name: Arc<str>,
    phase: AtomicU8,
    broken: AtomicBool,
    ending: AtomicBool,
    /// Beyond the limit: whatever it asks is answered that there is no room.
    overcrowds: AtomicBool,
    /// Counts the changes of phase in the whole process: the smaller, the longer it has lasted.
    since: AtomicU64,
    /// What comes next belongs to a body.
    in_body: AtomicBool,
    evicted: CancellationToken,
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
pub(in crate::gateway) struct ClientIo {
    stream: Stream,
    connection: Connection,
    /// What `deadline` is for. The sleep may go off before that, see `poll_too_long`.
    armed: Phase,
    deadline: Instant,
    sleep: Pin<Box<Sleep>>,
    stall: Stall,
    header_timeout: Duration,
    keep_alive_timeout: Duration,
}

// === impl Connection ===

impl Connection {
    pub(in crate::gateway) fn new() -> Self {
        static CONNECTIONS: AtomicU64 = AtomicU64::new(0);

        let number = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        Self(Arc::new(State {
            number,
            name: format!("connection {number}").into(),
            phase: AtomicU8::new(Phase::New as u8),
            broken: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            overcrowds: AtomicBool::new(false),
            since: AtomicU64::new(next_change()),
            in_body: AtomicBool::new(false),
            evicted: CancellationToken::new(),
        }))
    }

    /// A number that no other connection of this process has.
    pub(in crate::gateway) fn number(&self) -> u64 {
        self.0.number
    }

    /// A name that no other connection of this process has.
    pub(in crate::gateway) fn name(&self) -> &Arc<str> {
        &self.0.name
    }

    /// A request's head is complete.
    pub(in crate::gateway) fn begin_answer(&self) {
        self.set(Phase::Busy);
    }

    /// An answer has been sent, or given up.
    pub(in crate::gateway) fn end_answer(&self) {
        self.set(Phase::Idle);
    }

    /// What comes next belongs to a request's body, or does not.
    pub(super) fn set_in_body(&self, in_body: bool) {
        self.0.in_body.store(in_body, Ordering::Relaxed);
    }

    /// Whether a request has come whole and its answer is not yet: until then nothing is read.
    pub(super) fn only_answers(&self) -> bool {
        self.phase() == Phase::Busy && !self.0.in_body.load(Ordering::Relaxed)
    }

    /// Makes the connection end with a reset: an answer broke off, and a clean end would look like
    /// a complete one.
    pub(in crate::gateway) fn reset_at_the_end(&self) {
        self.0.broken.store(true, Ordering::Relaxed);
    }

    /// From now on nothing more is read: what is no whole head yet never becomes one.
    pub(in crate::gateway) fn end(&self) {
        self.0.ending.store(true, Ordering::Relaxed);
    }

    /// There is no room for it, and it is there to be told so.
    pub(in crate::gateway) fn is_one_too_many(&self) {
        self.0.overcrowds.store(true, Ordering::Relaxed);
    }

    pub(in crate::gateway) fn overcrowds(&self) -> bool {
        self.0.overcrowds.load(Ordering::Relaxed)
    }

    /// How well others can do without it; the least goes first, and `None` stays.
    pub(in crate::gateway) fn dispensable(&self) -> Option<(u8, u64)> {
        let rank = match self.phase() {
            Phase::Idle => 0,
            Phase::New | Phase::Head => 1,
            Phase::Busy => return None,
        };
        Some((rank, self.0.since.load(Ordering::Relaxed)))
    }

    /// Gives its place to another.
    pub(in crate::gateway) fn evict(&self) {
        self.0.evicted.cancel();
    }

    /// Resolves when it has to go.
    pub(in crate::gateway) fn evicted(&self) -> impl Future<Output = ()> + use<> {
        self.0.evicted.clone().cancelled_owned()
    }

    #[cfg(test)]
    pub(in crate::gateway) fn is_evicted(&self) -> bool {
        self.0.evicted.is_cancelled()
    }

    fn is_broken(&self) -> bool {
        self.0.broken.load(Ordering::Relaxed)
    }

    fn set(&self, phase: Phase) {
        // What begins a head owes it since it came.
        if phase != Phase::Head || self.phase() != Phase::New {
            self.0.since.store(next_change(), Ordering::Relaxed);
        }
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

fn next_change() -> u64 {
    static CHANGES: AtomicU64 = AtomicU64::new(0);

    CHANGES.fetch_add(1, Ordering::Relaxed)
}

// === impl ClientIo ===

impl ClientIo {
    pub(in crate::gateway) fn new(stream: Stream, connection: Connection, limits: &Limits) -> Self {
        let sleep = Box::pin(sleep(limits.first_byte_timeout));
        Self {
            stream,
            connection,
            armed: Phase::New,
            deadline: sleep.deadline(),
            sleep,
            stall: Stall::new(limits.write_timeout),
            header_timeout: limits.header_timeout,
            keep_alive_timeout: limits.keep_alive_timeout,
        }
    }

    /// Whether an answer broke off.
    pub(in crate::gateway) fn is_broken(&self) -> bool {
        self.connection.is_broken()
    }

    /// Nothing has come, and `phase` says how long that may last.
    fn poll_too_long(&mut self, phase: Phase, cx: &mut Context<'_>) -> Poll<()> {
        if self.armed != phase {
            self.armed = phase;
            let limit = match phase {
                Phase::Head => self.header_timeout,
                Phase::Idle => self.keep_alive_timeout,
                // A new connection's runs already.
                Phase::New | Phase::Busy => return Poll::Pending,
            };
            self.deadline = Instant::now() + limit;
            // One that goes off too early is moved then: moving it twice for each request would
            // cost more than that.
            if self.sleep.deadline() > self.deadline {
                self.sleep.as_mut().reset(self.deadline);
            }
        }
        if phase == Phase::Busy {
            return Poll::Pending;
        }
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            if Instant::now() >= self.deadline {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(self.deadline);
        }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let phase = this.connection.phase();
        if phase != Phase::Busy && this.connection.0.ending.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let read = this.stream.poll_read(cx, buf, MOST_AT_ONCE);
        if read.is_ready() {
            if matches!(phase, Phase::New | Phase::Idle) {
                this.connection.set(Phase::Head);
                // The limit of another head than the one that was waited for last, if of any.
                this.armed = phase;
            }
            return read;
        }
        this.poll_too_long(phase, cx).map(Ok)
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = self.stream.poll_write(cx, bufs) {
            self.stall.is_over();
            return Poll::Ready(written);
        }
        ready!(self.stall.poll_too_long(cx));
        // With an orderly end the system would go on offering what nobody takes.
        self.connection.reset_at_the_end();
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
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

impl Drop for ClientIo {
    fn drop(&mut self) {
        if self.is_broken() {
            self.stream.reset_when_dropped();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixStream,
    };

    use super::*;

    const FIRST_BYTE: Duration = Duration::from_secs(9);
    const HEADER: Duration = Duration::from_secs(10);
    const KEEP_ALIVE: Duration = Duration::from_secs(310);
    const WRITE: Duration = Duration::from_secs(60);

    fn limits() -> Limits {
        let local = crate::config::Sample::Preset("local".into());
        let built_in = crate::config::sample(&local, &|_| None);
        Limits {
            first_byte_timeout: FIRST_BYTE,
            header_timeout: HEADER,
            keep_alive_timeout: KEEP_ALIVE,
            write_timeout: WRITE,
            ..built_in.unwrap().limits
        }
    }

    fn pair() -> (ClientIo, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let ours = Stream::Unix(Arc::new(ours));
        (ClientIo::new(ours, Connection::new(), &limits()), theirs)
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
        assert_eq!(closed_after(&mut io).await, FIRST_BYTE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_never_ends_is_cut_off_however_it_trickles() {
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
            _ = closed_after(&mut io) => {}
        }
        assert_eq!(start.elapsed(), HEADER);
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_connection_has_no_limit_and_an_idle_one_outlives_the_clients_pool() {
        let (mut io, mut client) = pair();
        client.write_all(b"x").await.unwrap();
        io.read_u8().await.unwrap();
        io.connection.begin_answer();
        tokio::time::timeout(Duration::from_secs(3600), closed_after(&mut io))
            .await
            .unwrap_err();
        io.connection.end_answer();
        assert_eq!(closed_after(&mut io).await, KEEP_ALIVE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up_and_one_that_takes_little_is_not() {
        let (mut io, mut client) = pair();
        let answer = vec![0; 16 << 20];
        let taken = async {
            // More than what a socket may keep back before it asks for more.
            let mut some = vec![0; 1 << 20];
            for _ in 0..3 {
                sleep(WRITE - Duration::from_secs(1)).await;
                client.read_exact(&mut some).await.unwrap();
            }
            std::future::pending::<()>().await;
        };
        let start = Instant::now();
        let error = tokio::select! {
            written = io.write_all(&answer) => written.unwrap_err(),
            () = taken => unreachable!(),
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed(), 4 * WRITE - Duration::from_secs(3));
        assert!(io.connection.0.broken.load(Ordering::Relaxed));
    }
}
