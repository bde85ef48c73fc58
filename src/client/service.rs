//! The client: sends a request and returns the response headers. It never resends a request of
//! which a byte was written.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::Full;
use hyper_util::client::proxy::matcher::Matcher;
use pacegate_layers::{context::RequestContext, error::BoxError};
use parking_lot::RwLock;
use rustls::ClientConfig;
use tokio_util::task::TaskTracker;
use tower::Service;

use super::{
    body::ResponseBody,
    connections::{Connected, Connections},
    connector::Connector,
    endpoint::{BaseUrl, Endpoint},
    error::{ClientError, ConnectionLost, HeadTimeout, HeadTooLarge, Stage, UnexpectedUpgrade},
    exchange::{SendError, UpstreamRequest, head},
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
/// If a connection turns out to be closed before a byte was written, the request is sent once more,
/// on a new connection. Nothing else is ever sent twice.
///
/// Every call counts one attempt in the request's [`RequestContext`], if there is one.
#[derive(Clone)]
pub struct Client(Arc<ClientInner>);

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
        Ok(Self(Arc::new(ClientInner {
            options,
            tls,
            open,
            tasks,
            endpoint: RwLock::new(Arc::new(Endpoint::new(base, Arc::new(connections)))),
        })))
    }

    /// Sends new requests to `base_url`. Requests in flight are not disturbed; connections are kept
    /// only if the origin stays the same.
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
        } = &*self.0;
        let base = BaseUrl::new(base_url)?;
        let mut endpoint = endpoint.write();
        let connections = if endpoint.base.origin == base.origin {
            endpoint.connections.clone()
        } else {
            let connector = Connector::new(&base, options, tls.clone())?;
            Arc::new(Connections::new(connector, open.clone(), tasks.clone()))
        };
        *endpoint = Arc::new(Endpoint::new(base, connections));
        Ok(())
    }

    /// The current base URL.
    pub fn base_url(&self) -> Uri {
        self.endpoint().base.uri.clone()
    }

    /// The number of open connections, in use or not.
    pub fn open_connections(&self) -> usize {
        self.0.open.load(Ordering::Relaxed)
    }

    /// The number of idle HTTP/1.1 connections. Those that the upstream has closed count until they
    /// are tried.
    pub fn idle_connections(&self) -> usize {
        self.endpoint().connections.idle.len()
    }

    fn endpoint(&self) -> Arc<Endpoint> {
        self.0.endpoint.read().clone()
    }

    /// Sends `request` on an existing connection, or else on a new one.
    async fn send(self, mut request: UpstreamRequest) -> Result<Response<ResponseBody>, BoxError> {
        let endpoint = self.endpoint();
        let url = endpoint.base.url(request.uri())?;
        if let Some(connection) = endpoint.connections.reuse() {
            match self
                .exchange(connection, &endpoint, request, url.clone())
                .await
            {
                Err(SendError::Unsent(unsent)) => request = *unsent,
                outcome => return outcome.map_err(|failed| self.error(failed, &endpoint)),
            }
        }
        let fresh = endpoint.connections.connect().await?;
        let outcome = self.exchange(fresh, &endpoint, request, url).await;
        outcome.map_err(|failed| self.error(failed, &endpoint))
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
        } = self.0.options;
        match connection {
            Connected::H1(mut connection) => {
                endpoint.prepare_h1(&mut request, url);
                let response = connection.send(request);
                let head = head(response, Some(connection), max_head, head_timeout).await?;
                let pool = Arc::clone(&endpoint.connections.idle);
                Ok(ResponseBody::over_h1(head, pool, idle_timeout))
            }
            Connected::H2(mut sender) => {
                endpoint.prepare_h2(&mut request, url);
                let response = sender.try_send_request(request);
                let head = head(response, None, max_head, head_timeout).await?;
                Ok(ResponseBody::over_h2(head, idle_timeout))
            }
        }
    }

    fn error(&self, failed: SendError, endpoint: &Endpoint) -> BoxError {
        let address = endpoint.base.origin.address();
        let too_large = HeadTooLarge {
            most: bytesize::ByteSize(self.0.options.max_head as u64),
        };
        match failed {
            SendError::HeadTooLarge => too_large.into(),
            SendError::ConnectionLost(source) => ConnectionLost { address, source }.into(),
            SendError::UnexpectedUpgrade => UnexpectedUpgrade { address }.into(),
            SendError::TimedOut => HeadTimeout {
                address,
                after: self.0.options.head_timeout,
            }
            .into(),
            SendError::Unsent(_) => endpoint.connections.connector.error_at(
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
        if let Some(context) = request.extensions().get::<RequestContext>() {
            context.count_attempt();
        }
        Box::pin(self.clone().send(request))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("origin", &self.endpoint().base.origin)
            .finish_non_exhaustive()
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

    /// The server closes after the pool's check and before the first byte: a race that cannot be
    /// won on purpose through the public interface.
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
        let endpoint = client.endpoint();

        let Connected::H1(stale) = endpoint.connections.connect().await.unwrap() else {
            unreachable!("nobody offered HTTP/2");
        };
        drop(server.accept().await.unwrap());
        tokio::time::sleep(Duration::from_millis(50)).await;
        endpoint.connections.idle.put(stale);

        let request = Request::post("/chat").body(Full::from("whole")).unwrap();
        let serving = async {
            let (mut socket, _) = server.accept().await.unwrap();
            let mut read = Vec::new();
            while !read.ends_with(b"whole") {
                assert_ne!(socket.read_buf(&mut read).await.unwrap(), 0);
            }
            let response = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            socket.write_all(response).await.unwrap();
            (String::from_utf8(read).unwrap(), socket)
        };
        let ((read, _socket), response) = tokio::join!(serving, client.clone().call(request));
        assert!(read.starts_with("POST /v1/chat HTTP/1.1\r\n"), "{read}");
        let body = response.unwrap().into_body().collect().await.unwrap();
        assert_eq!(body.to_bytes(), "ok");
        assert_eq!(client.open_connections(), 1);
    }
}
