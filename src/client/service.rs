//! The client: reserves a connection, sends a request and returns the response headers. It sends no
//! request twice.

use std::{
    fmt,
    future::{Future, ready},
    mem,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{self, Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::Full;
use hyper_util::client::proxy::matcher::Matcher;
use pacegate_layers::{
    context::RequestContext,
    error::{BoxError, NotProcessed, NotSent, SlowDown, Stale},
};
use parking_lot::RwLock;
use rustls::ClientConfig;
use tokio_util::{sync::ReusableBoxFuture, task::TaskTracker};
use tower::Service;

use super::{
    body::ResponseBody,
    connections::{Connected, Connections},
    connector::Connector,
    endpoint::{BaseUrl, Endpoint},
    error::{
        ClientError, ConnectionLost, HeadTimeout, HeadTooLarge, Http1Required, UnexpectedUpgrade,
    },
    exchange::{SendError, UpstreamRequest, head},
    reservation::Reservation,
    tls,
};
use crate::config::{self, HttpVersion};

/// How to reach an upstream.
#[derive(Debug)]
pub struct ClientOptions {
    /// Which HTTP version to speak.
    pub http: HttpVersion,
    /// The maximum size of response headers, counted as in HTTP/1.1, line endings included.
    pub max_head: usize,
    /// The maximum time for a connection: name resolution, TCP, proxy and TLS together.
    pub connect_timeout: Duration,
    /// The maximum wait for response headers on an open connection.
    pub head_timeout: Duration,
    /// The maximum silence of a response body.
    pub idle_timeout: Duration,
    /// Which root certificates to trust.
    pub tls: config::Tls,
    /// Which hosts are reached through which proxy; loopback never is.
    pub proxy: Matcher,
}

/// A client of one upstream; clones share connections.
///
/// The path and query of a request follow the base URL's path. The client sets `Host`: an existing
/// value is replaced in its position. It does not follow redirects.
///
/// # Readiness
///
/// [`poll_ready`](Service::poll_ready) reserves a connection for this instance, or a stream over
/// HTTP/2, and [`call`](Service::call) uses it up. A reservation is not cloned; dropping the instance
/// gives it back. One may be kept for a while: a poll reports [`Stale`] once the connection has been
/// closed or idle for too long, or the base URL has changed, and the caller goes on with a fresh
/// clone. A closed HTTP/1.1 connection also wakes the task of the latest poll.
///
/// # Errors
///
/// `poll_ready` fails with [`NotSent`] around a [`ConnectError`](super::error::ConnectError) if no
/// connection could be opened, with [`CertificateError`](super::error::CertificateError), with
/// [`Unreachable`](super::error::Unreachable) if none was tried, or with [`Stale`].
///
/// A request is written in the first poll of the response future, or passed to the connection's task
/// then. No request is sent twice: if the upstream has not processed one, the response future fails
/// with [`NotSent`] around [`NotProcessed`]. Without a reservation it fails with [`Stale`].
///
/// Every call with a reservation counts one attempt in the request's [`RequestContext`], if there is
/// one.
pub struct Client {
    inner: Arc<ClientInner>,
    state: State,
}

/// How far an instance is from sending a request.
enum State {
    Unready,
    Waiting(Arc<Endpoint>, Connecting),
    Ready(Reservation),
}

type Connecting = ReusableBoxFuture<'static, Result<Connected, BoxError>>;

struct ClientInner {
    options: ClientOptions,
    tls: Arc<ClientConfig>,
    /// Open connections, to any origin.
    open: Arc<AtomicUsize>,
    tasks: TaskTracker,
    /// Replaced as a whole when the base URL changes.
    endpoint: RwLock<Arc<Endpoint>>,
}

/// The future of a [`Client`].
///
/// # Cancel safety
///
/// Dropping it closes the HTTP/1.1 connection, or resets the HTTP/2 stream, at once.
pub type ResponseFuture =
    Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, BoxError>> + Send>>;

// === impl ClientOptions ===

impl ClientOptions {
    /// The options that `upstream` is configured with, and `proxy`: [`Matcher::from_env`] outside
    /// tests.
    pub fn new(upstream: &config::Upstream, proxy: Matcher) -> Self {
        Self {
            http: upstream.http,
            max_head: upstream.max_head,
            connect_timeout: upstream.connect_timeout,
            head_timeout: upstream.head_timeout,
            idle_timeout: upstream.idle_timeout,
            tls: upstream.tls.clone(),
            proxy,
        }
    }
}

// === impl Client ===

impl Client {
    /// A client for the upstream at `base_url`. It does not connect yet.
    ///
    /// # Errors
    ///
    /// [`ClientError`] names the option that cannot be used.
    pub fn new(base_url: Uri, options: ClientOptions) -> Result<Self, ClientError> {
        let tls = tls::client_config(&options.tls, options.http)?;
        let base = BaseUrl::new(base_url)?;
        let open = Arc::default();
        let tasks = TaskTracker::new();
        let connections = Connections::new(
            Connector::new(&base, &options, tls.clone())?,
            Arc::clone(&open),
            tasks.clone(),
        );
        let inner = ClientInner {
            options,
            tls,
            open,
            tasks,
            endpoint: RwLock::new(Arc::new(Endpoint::new(base, Arc::new(connections)))),
        };
        Ok(Self {
            inner: Arc::new(inner),
            state: State::Unready,
        })
    }

    /// Sends new requests to `base_url`. Requests in flight are not disturbed; connections are kept
    /// only if the origin stays the same. Reservations become stale.
    ///
    /// # Errors
    ///
    /// [`ClientError`] if `base_url` or its proxy cannot be used; the old base URL stays.
    pub fn set_base_url(&self, base_url: Uri) -> Result<(), ClientError> {
        let ClientInner {
            options,
            tls,
            open,
            tasks,
            endpoint,
        } = &*self.inner;
        let base = BaseUrl::new(base_url)?;
        let mut endpoint = endpoint.write();
        if endpoint.base.uri == base.uri {
            return Ok(());
        }
        let connections = if endpoint.base.origin == base.origin {
            endpoint.connections.clone()
        } else {
            let connector = Connector::new(&base, options, tls.clone())?;
            Arc::new(Connections::new(connector, open.clone(), tasks.clone()))
        };
        let previous = mem::replace(&mut *endpoint, Arc::new(Endpoint::new(base, connections)));
        // Requests that wait for a connection go on at the new URL.
        previous.connections.wake_all();
        Ok(())
    }

    /// The current base URL.
    pub fn base_url(&self) -> Uri {
        self.endpoint().base.uri.clone()
    }

    /// The number of open connections, in use or not.
    pub fn open_connections(&self) -> usize {
        self.inner.open.load(Ordering::Relaxed)
    }

    /// The number of idle HTTP/1.1 connections. Those that the upstream has closed count until they
    /// are tried.
    pub fn idle_connections(&self) -> usize {
        self.endpoint().connections.idle.len()
    }

    fn endpoint(&self) -> Arc<Endpoint> {
        self.inner.endpoint()
    }
}

impl Clone for Client {
    /// The clone has no reservation.
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            state: State::Unready,
        }
    }
}

impl Service<Request<Full<Bytes>>> for Client {
    type Response = Response<ResponseBody>;
    type Error = BoxError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let endpoint = self.endpoint();
        loop {
            match &mut self.state {
                State::Ready(reservation) => {
                    if Arc::ptr_eq(&reservation.endpoint, &endpoint) && reservation.poll_usable(cx)
                    {
                        return Poll::Ready(Ok(()));
                    }
                    self.state = State::Unready;
                    return Poll::Ready(Err(Stale.into()));
                }
                State::Unready => {
                    // Nearly always there is one; then nothing is allocated.
                    self.state = match endpoint.connections.take_free(cx) {
                        Some(connection) => {
                            let reservation = Reservation::new(endpoint, connection);
                            self.state = State::Ready(reservation);
                            return Poll::Ready(Ok(()));
                        }
                        None => {
                            let connecting = Arc::clone(&endpoint.connections).wait();
                            State::Waiting(endpoint.clone(), ReusableBoxFuture::new(connecting))
                        }
                    };
                }
                State::Waiting(asked, connecting) => {
                    if !Arc::ptr_eq(asked, &endpoint) {
                        self.state = State::Unready;
                        continue;
                    }
                    let outcome = task::ready!(connecting.poll(cx));
                    self.state = State::Unready;
                    let reservation = Reservation::new(endpoint, outcome?);
                    self.state = State::Ready(reservation);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> ResponseFuture {
        let State::Ready(reservation) = mem::replace(&mut self.state, State::Unready) else {
            return Box::pin(ready(Err(Stale.into())));
        };
        if let Some(context) = request.extensions().get::<RequestContext>() {
            context.count_attempt();
        }
        Box::pin(Arc::clone(&self.inner).send(reservation, request))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("origin", &self.endpoint().base.origin)
            .finish_non_exhaustive()
    }
}

// === impl ClientInner ===

impl ClientInner {
    fn endpoint(&self) -> Arc<Endpoint> {
        self.endpoint.read().clone()
    }

    async fn send(
        self: Arc<Self>,
        reservation: Reservation,
        request: UpstreamRequest,
    ) -> Result<Response<ResponseBody>, BoxError> {
        let endpoint = Arc::clone(&reservation.endpoint);
        let url = endpoint.base.url(request.uri())?;
        let connection = reservation.into_connection().ok_or(Stale)?;
        let outcome = self.exchange(connection, &endpoint, request, url).await;
        let response = outcome.map_err(|failed| self.error(failed, &endpoint))?;
        // A forwarding proxy's refusal is not the upstream's.
        let route = &endpoint.connections.connector.route;
        route.check_status(response.status())?;
        Ok(response)
    }

    async fn exchange(
        &self,
        connection: Connected,
        endpoint: &Endpoint,
        mut request: UpstreamRequest,
        url: Uri,
    ) -> Result<Response<ResponseBody>, SendError> {
        let ClientOptions {
            max_head,
            head_timeout,
            idle_timeout,
            ..
        } = self.options;
        match connection {
            Connected::H1(mut connection) => {
                endpoint.prepare_h1(&mut request, url);
                let response = connection.send(request);
                let head = head(response, Some(connection), max_head, head_timeout).await?;
                let pool = Arc::clone(&endpoint.connections.idle);
                Ok(ResponseBody::over_h1(head, pool, idle_timeout))
            }
            Connected::H2(stream) => {
                endpoint.prepare_h2(&mut request, url);
                let (stream, response) = stream.send(request);
                let head = head(response, None, max_head, head_timeout)
                    .await
                    .inspect_err(|failed| {
                        // One that refuses a request is not likely to take the next.
                        if matches!(
                            failed,
                            SendError::Http1Required(_)
                                | SendError::NotProcessed(_)
                                | SendError::SlowDown(_)
                        ) {
                            stream.close_connection();
                        }
                    })?;
                stream.answered();
                Ok(ResponseBody::over_h2(head, stream, idle_timeout))
            }
        }
    }

    fn error(&self, failed: SendError, endpoint: &Endpoint) -> BoxError {
        let address = endpoint.base.origin.address();
        let not_processed = |cause| NotSent(NotProcessed(cause).into()).into();
        match failed {
            SendError::ConnectionLost(source) => ConnectionLost { address, source }.into(),
            SendError::HeadTooLarge => HeadTooLarge {
                most: bytesize::ByteSize(self.options.max_head as u64),
            }
            .into(),
            SendError::Http1Required(source) if self.options.http == HttpVersion::H2 => {
                Http1Required { address, source }.into()
            }
            SendError::Http1Required(cause) => {
                endpoint.connections.require_http1();
                not_processed(cause)
            }
            SendError::NotProcessed(cause) => not_processed(cause),
            SendError::SlowDown(cause) => SlowDown(cause).into(),
            SendError::TimedOut => HeadTimeout {
                address,
                after: self.options.head_timeout,
            }
            .into(),
            SendError::UnexpectedUpgrade => UnexpectedUpgrade { address }.into(),
        }
    }
}
