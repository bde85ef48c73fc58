//! The client: a request in, the upstream's answer out, nothing repeated that may have been seen.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::Full;
use hyper_util::client::proxy::matcher::Matcher;
use pacegate_layers::{error::BoxError, progress::Progress};
use rustls::ClientConfig;
use tokio_util::task::TaskTracker;
use tower_service::Service;

use super::{
    base::Base,
    body::ResponseBody,
    connect::Connector,
    connections::{Connected, Connections},
    error::{Broken, ClientError, HeadTimeout, HeadTooLarge, Stage, Switched},
    exchange::{Failed, Outgoing},
    h1::{self, Exchange},
    h2,
    target::Target,
    tls,
};
use crate::config::{self, HttpVersion};

/// How to reach an upstream.
#[derive(Debug)]
pub struct ClientOptions {
    /// Which HTTP version to speak.
    pub http: HttpVersion,
    /// The largest response head: what its fields take in HTTP/1.1, line ends included.
    pub max_head: usize,
    /// The longest wait for a connection: name resolution, TCP, proxy and TLS together.
    pub connect_timeout: Duration,
    /// The longest wait for a response head once there is a connection.
    pub head_timeout: Duration,
    /// The longest silence while a response body is waited for.
    pub idle_timeout: Duration,
    /// Whom to trust.
    pub tls: config::Tls,
    /// Which hosts are reached through which proxy; loopback never is.
    pub proxy: Matcher,
}

/// A client of one upstream; clones share connections.
///
/// The path and query of a request follow the base URL's path. `Host` is set here: a value that is
/// there already keeps its place and is replaced. Redirects are answers like any other.
///
/// A request that was handed to a connection which then turned out to be closed goes out on a fresh
/// one, but only if not a byte of it was written. Nothing else is ever sent twice.
///
/// If the request carries a [`Progress`], every call counts as one attempt.
#[derive(Clone)]
pub struct Client(Arc<Shared>);

struct Shared {
    options: ClientOptions,
    tls: Arc<ClientConfig>,
    /// Connections that are open, to whichever origin.
    open: Arc<AtomicUsize>,
    tasks: TaskTracker,
    /// Replaced whole when the base URL is.
    target: RwLock<Arc<Target>>,
}

/// The future of a [`Client`].
///
/// # Cancel safety
///
/// Dropping it closes the HTTP/1.1 connection, or resets the HTTP/2 stream, at once.
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture {
    client: Client,
    target: Arc<Target>,
    state: State,
}

#[expect(
    clippy::large_enum_variant,
    reason = "boxed by the pipeline as a whole, once"
)]
enum State {
    /// On a connection that was idle: nearly all requests.
    Exchange(Exchange),
    /// On one that has to be opened, or that is shared. Boxed: rare beside the others, and large.
    Other(Pin<Box<dyn Future<Output = Outcome> + Send>>),
}

type Outcome = Result<Response<ResponseBody>, BoxError>;

// === impl ClientOptions ===

impl ClientOptions {
    /// The options that `upstream` is configured with, and `proxy`:
    /// [`Matcher::from_env`] outside tests.
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
    /// A client of the upstream at `base_url`. Nothing is connected yet.
    ///
    /// # Errors
    ///
    /// [`ClientError`] says which option cannot be used.
    pub fn new(base_url: Uri, options: ClientOptions) -> Result<Self, ClientError> {
        let tls = tls::client_config(&options.tls, options.http)?;
        let base = Base::new(base_url)?;
        let open = Arc::default();
        let tasks = TaskTracker::new();
        let connections = Connections::new(
            Connector::new(&base, &options, tls.clone())?,
            Arc::clone(&open),
            tasks.clone(),
        );
        Ok(Self(Arc::new(Shared {
            options,
            tls,
            open,
            tasks,
            target: RwLock::new(Arc::new(Target::new(base, Arc::new(connections)))),
        })))
    }

    /// Sends the requests that come from now on to `base_url`. Those under way are not disturbed;
    /// connections are kept only if the origin stays the same.
    ///
    /// # Errors
    ///
    /// [`ClientError`] if `base_url` or the proxy in front of it cannot be used; the old one stays.
    pub fn set_base_url(&self, base_url: Uri) -> Result<(), ClientError> {
        let Shared {
            options,
            tls,
            open,
            tasks,
            target,
        } = &*self.0;
        let base = Base::new(base_url)?;
        let mut target = target.write().unwrap_or_else(PoisonError::into_inner);
        let connections = if target.base.origin == base.origin {
            target.connections.clone()
        } else {
            let connector = Connector::new(&base, options, tls.clone())?;
            Arc::new(Connections::new(connector, open.clone(), tasks.clone()))
        };
        *target = Arc::new(Target::new(base, connections));
        Ok(())
    }

    /// Where requests go now.
    pub fn base_url(&self) -> Uri {
        self.target().base.uri.clone()
    }

    /// Connections that are open now, in use or not.
    pub fn open_connections(&self) -> usize {
        self.0.open.load(Ordering::Relaxed)
    }

    /// HTTP/1.1 connections that wait for a request. Those that the other side has closed are
    /// counted until somebody tries to use them.
    pub fn idle_connections(&self) -> usize {
        self.target().connections.idle.len()
    }

    fn target(&self) -> Arc<Target> {
        let target = self.0.target.read();
        target.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends `request` on the shared connection if there is one, or else on a fresh one.
    async fn send_without_idle(self, target: Arc<Target>, mut request: Outgoing) -> Outcome {
        if let Some(sender) = target.connections.shared() {
            match self.over_h2(sender, &target, request).await {
                Err(Failed::Unsent(unsent)) => request = *unsent,
                outcome => return outcome.map_err(|failed| self.explain(failed, &target)),
            }
        }
        let outcome = match target.connections.connect().await? {
            Connected::H1(connection) => {
                let exchange = Exchange::new(connection, request, Arc::clone(&target));
                exchange.await.map(|response| response.map(h1::Body::into))
            }
            Connected::H2(sender) => self.over_h2(sender, &target, request).await,
        };
        outcome.map_err(|failed| self.explain(failed, &target))
    }

    async fn over_h2(
        &self,
        sender: h2::Sender,
        target: &Target,
        mut request: Outgoing,
    ) -> Result<Response<ResponseBody>, Failed> {
        let dressed = target.dress_for_h2(&mut request);
        dressed.map_err(|error| Failed::Broken(error.into()))?;
        let response = h2::exchange(sender, request, &self.0.options).await?;
        Ok(response.map(h2::Body::into))
    }

    fn explain(&self, failed: Failed, target: &Target) -> BoxError {
        let address = target.base.origin.address();
        let too_large = HeadTooLarge {
            most: bytesize::ByteSize(self.0.options.max_head as u64),
        };
        match failed {
            Failed::HeadTooLarge => too_large.into(),
            Failed::Broken(source) => Broken { address, source }.into(),
            Failed::Switched => Switched { address }.into(),
            Failed::TimedOut => HeadTimeout {
                address,
                after: self.0.options.head_timeout,
            }
            .into(),
            Failed::Unsent(_) => target.connections.connector.explain(
                Stage::Connect,
                "the connection was closed before the request was written".into(),
            ),
        }
    }
}

impl Service<Request<Full<Bytes>>> for Client {
    type Response = Response<ResponseBody>;
    type Error = BoxError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> ResponseFuture {
        if let Some(progress) = request.extensions().get::<Progress>() {
            progress.count_attempt();
        }
        let (client, target) = (self.clone(), self.target());
        let state = State::next(&client, &target, request);
        ResponseFuture {
            client,
            target,
            state,
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("origin", &self.target().base.origin)
            .finish_non_exhaustive()
    }
}

// === impl ResponseFuture ===

impl Future for ResponseFuture {
    type Output = Result<Response<ResponseBody>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            let outcome = match &mut this.state {
                State::Exchange(exchange) => ready!(Pin::new(exchange).poll(cx)),
                State::Other(sending) => return sending.as_mut().poll(cx),
            };
            this.state = match outcome {
                Ok(response) => return Poll::Ready(Ok(response.map(h1::Body::into))),
                Err(Failed::Unsent(request)) => State::next(&this.client, &this.target, *request),
                Err(failed) => return Poll::Ready(Err(this.client.explain(failed, &this.target))),
            };
        }
    }
}

// === impl State ===

impl State {
    /// The freshest idle connection that is left, or else another one.
    fn next(client: &Client, target: &Arc<Target>, request: Outgoing) -> Self {
        let target = Arc::clone(target);
        match target.connections.idle.take() {
            Some(connection) => Self::Exchange(Exchange::new(connection, request, target)),
            None => Self::Other(Box::pin(client.clone().send_without_idle(target, request))),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// The other side closes after the pool's check and before the first byte: a race that no
    /// client of the public interface can win on purpose.
    #[tokio::test]
    async fn sends_an_unwritten_request_again_on_a_fresh_connection() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}/v1", server.local_addr().unwrap());
        let options = ClientOptions {
            http: HttpVersion::Auto,
            max_head: 64 * 1024,
            connect_timeout: Duration::from_secs(5),
            head_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(5),
            tls: config::Tls {
                roots: config::Roots::Bundled,
                ca_file: None,
            },
            proxy: Matcher::builder().build(),
        };
        let client = Client::new(base.parse().unwrap(), options).unwrap();
        let target = client.target();

        let Connected::H1(stale) = target.connections.connect().await.unwrap() else {
            unreachable!("nobody offered HTTP/2");
        };
        drop(server.accept().await.unwrap());
        tokio::time::sleep(Duration::from_millis(50)).await;
        target.connections.idle.put(stale);

        let request = Request::post("/chat").body(Full::from("whole")).unwrap();
        let serving = async {
            let (mut socket, _) = server.accept().await.unwrap();
            let mut read = Vec::new();
            while !read.ends_with(b"whole") {
                assert_ne!(socket.read_buf(&mut read).await.unwrap(), 0);
            }
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            socket.write_all(answer).await.unwrap();
            (String::from_utf8(read).unwrap(), socket)
        };
        let ((read, _socket), response) = tokio::join!(serving, client.clone().call(request));
        assert!(read.starts_with("POST /v1/chat HTTP/1.1\r\n"), "{read}");
        let body = response.unwrap().into_body().collect().await.unwrap();
        assert_eq!(body.to_bytes(), "ok");
        assert_eq!(client.open_connections(), 1);
    }
}
