//! All connections to one origin, and which one a request gets.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use pacegate_layers::error::BoxError;
use parking_lot::Mutex;
use tokio::{
    select,
    sync::{Notify, oneshot},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::task::TaskTracker;

use super::{
    connector::{Connector, StageTracker},
    dialing::{Dialing, Next, Protocol},
    error::{ConnectTimeout, NoStreams, Stage},
    h1::H1Connection,
    h2,
    pool::Pool,
};

/// The connections to one origin. They close when the last request on them is over and the client
/// has switched to another origin.
pub(super) struct Connections {
    pub(super) connector: Connector,
    /// Replaces `connector` once the upstream has demanded HTTP/1.1.
    http1_connector: OnceLock<Connector>,
    pub(super) idle: Arc<Pool>,
    shared: h2::Connections,
    dialing: Mutex<Dialing>,
    /// Wakes requests that wait for a connection: one when a connection or a stream is free, all
    /// when something else has changed.
    changed: Arc<Notify>,
    open: Arc<AtomicUsize>,
    tasks: TaskTracker,
}

/// Counts an open connection until dropped.
pub(super) struct ConnectionGuard(Arc<AtomicUsize>);

/// A connection for one request, which is written at once.
pub(super) enum Connected {
    H1(Box<H1Connection>),
    H2(h2::Stream),
}

/// A search for a connection that is free.
enum Taken {
    Connection(Connected),
    /// None is free, and one that had just been opened has ended.
    Ended,
    Nothing,
}

/// Counts a waiting request until dropped.
struct Waiting<'a>(&'a Connections);

/// Counts a connection as being opened until dropped.
struct Opening {
    connections: Arc<Connections>,
    began: Instant,
}

// === impl Connections ===

impl Connections {
    pub(super) fn new(connector: Connector, open: Arc<AtomicUsize>, tasks: TaskTracker) -> Self {
        let changed = Arc::new(Notify::new());
        Self {
            idle: Arc::new(Pool::new(Arc::clone(&changed))),
            shared: h2::Connections::default(),
            dialing: Mutex::new(Dialing::new(
                connector.http,
                connector.origin.https,
                connector.timeout,
            )),
            connector,
            http1_connector: OnceLock::new(),
            changed,
            open,
            tasks,
        }
    }

    /// A connection that is free. `cx` is woken when one over HTTP/1.1 is closed by the upstream.
    pub(super) fn take_free(&self, cx: &mut Context<'_>) -> Option<Connected> {
        match self.take(cx) {
            Taken::Connection(connection) => Some(connection),
            Taken::Ended | Taken::Nothing => None,
        }
    }

    fn take(&self, cx: &mut Context<'_>) -> Taken {
        let mut ended = None;
        match self.shared.reserve() {
            h2::Reservation::Reserved { stream, is_first } => {
                if is_first {
                    self.dialing.lock().succeeded();
                }
                return Taken::Connection(Connected::H2(stream));
            }
            h2::Reservation::Ended(began) => ended = Some(began),
            h2::Reservation::Nothing => {}
        }
        while let Some(mut connection) = self.idle.take() {
            let unproven = connection.unproven.take();
            if connection.poll_usable(cx) {
                if unproven.is_some() {
                    self.dialing.lock().succeeded();
                }
                return Taken::Connection(Connected::H1(connection));
            }
            ended = ended.or(unproven);
        }
        let Some(began) = ended else {
            return Taken::Nothing;
        };
        let error = self.closed_early();
        self.dialing.lock().failed(began, &error, Instant::now());
        Taken::Ended
    }

    /// The connection that is free first: one that another request gives back, or a new one, which
    /// is opened by a task of its own. If the request gets another one meanwhile, or goes away, the
    /// new one is there for the next.
    ///
    /// # Errors
    ///
    /// `NotSent` around a `ConnectError`, a `CertificateError`, or `Unreachable`.
    pub(super) async fn wait(self: Arc<Self>) -> Result<Connected, BoxError> {
        let began = Instant::now();
        let _waiting = Waiting::new(&self);
        let mut own: Option<oneshot::Receiver<BoxError>> = None;
        let mut has_dialed = false;
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            match poll_fn(|cx| Poll::Ready(self.take(cx))).await {
                Taken::Connection(connection) => return Ok(connection),
                Taken::Ended if has_dialed => return Err(self.closed_early()),
                Taken::Ended | Taken::Nothing => {}
            }
            if let Some(failed) = &mut own {
                select! {
                    biased;
                    failure = failed => {
                        own = None;
                        if let Ok(error) = failure
                            && !self.shared.capacity().is_usable
                        {
                            return Err(error);
                        }
                    }
                    () = changed => {}
                }
                continue;
            }
            let until = match self.next(began)? {
                Next::Dial => {
                    let (report, failed) = oneshot::channel();
                    let opening = Opening::new(&self);
                    self.tasks.spawn(opening.run(report));
                    (own, has_dialed) = (Some(failed), true);
                    continue;
                }
                Next::Fail(error) => return Err(error),
                Next::Wait => None,
                Next::WaitUntil(instant) => Some(instant),
            };
            let Some(until) = until else {
                changed.await;
                continue;
            };
            select! {
                () = changed => {}
                () = sleep_until(until) => {}
            }
        }
    }

    /// What a request does that has been waiting since `began`.
    fn next(&self, began: Instant) -> Result<Next, BoxError> {
        let capacity = self.shared.capacity();
        let now = Instant::now();
        let next = self.dialing.lock().next(&capacity, began, now);
        if !capacity.refuses_all || !matches!(next, Next::Wait | Next::WaitUntil(_)) {
            return Ok(next);
        }
        let limit = self.connector.timeout;
        if now < began + limit {
            return Ok(Next::WaitUntil(began + limit));
        }
        Err(self
            .connector
            .error_at(Stage::Http2, NoStreams(limit).into()))
    }

    async fn open(&self, stage: &StageTracker, began: Instant) -> Result<(), BoxError> {
        let connector = self.connector();
        let stream = connector.connect(stage).await?;
        let open = ConnectionGuard::new(&self.open);
        let protocol = if connector.speaks_h2(&stream) {
            Protocol::Http2
        } else {
            Protocol::Http1
        };
        self.dialing.lock().agreed_on(protocol);
        self.changed.notify_waiters();
        let max_head = connector.max_head;
        match protocol {
            Protocol::Http1 => {
                let connection = H1Connection::new(stream, max_head, began, open).await?;
                self.idle.put(connection);
            }
            Protocol::Http2 => {
                stage.set(Stage::Http2);
                let (tasks, changed) = (&self.tasks, Arc::clone(&self.changed));
                let connection =
                    h2::Connection::handshake(stream, max_head, began, open, tasks, changed);
                self.shared.add(connection.await?);
            }
        }
        Ok(())
    }

    /// Speaks HTTP/1.1 from now on, whatever the upstream offers.
    pub(super) fn require_http1(&self) {
        self.http1_connector
            .get_or_init(|| self.connector.for_http1());
        self.dialing.lock().agreed_on(Protocol::Http1);
        self.shared.close();
        self.wake_all();
    }

    /// Wakes all requests that wait for a connection.
    pub(super) fn wake_all(&self) {
        self.changed.notify_waiters();
    }

    /// How new connections are opened.
    pub(super) fn connector(&self) -> &Connector {
        self.http1_connector.get().unwrap_or(&self.connector)
    }

    fn closed_early(&self) -> BoxError {
        let why = "the connection was closed before a request was written";
        self.connector.error_at(Stage::Connect, why.into())
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

// === impl Waiting ===

impl<'a> Waiting<'a> {
    fn new(connections: &'a Connections) -> Self {
        connections.dialing.lock().join();
        Self(connections)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.dialing.lock().leave();
    }
}

// === impl Opening ===

impl Opening {
    /// After [`Next::Dial`].
    fn new(connections: &Arc<Connections>) -> Self {
        Self {
            connections: Arc::clone(connections),
            began: Instant::now(),
        }
    }

    /// Opens a connection that is free afterwards, or says in `report` why not.
    async fn run(self, report: oneshot::Sender<BoxError>) {
        let Self { connections, began } = &self;
        let stage = StageTracker::default();
        let limit = connections.connector.timeout;
        let opened = timeout(limit, connections.open(&stage, *began)).await;
        let Err(error) = opened.unwrap_or_else(|_elapsed| Err(ConnectTimeout(limit).into())) else {
            return;
        };
        let error = connections.connector().error_at(stage.get(), error);
        let now = Instant::now();
        connections.dialing.lock().failed(*began, &error, now);
        // The request may have got another connection.
        let _unread = report.send(error);
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.connections.dialing.lock().finish();
        self.connections.wake_all();
    }
}
