//! Opens one connection: name, TCP, proxy, TLS, all within one time-out.

use std::{
    error::Error,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::{
    client::legacy::connect::{
        Connection as _, HttpConnector,
        dns::{GaiAddrs, GaiResolver, Name},
        proxy::Tunnel,
    },
    rt::TokioIo,
};
use pacegate_layers::error::{BoxError, NotSent};
use parking_lot::Mutex;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tower::{Service, ServiceExt};

use super::{
    endpoint::{BaseUrl, Origin},
    error::{CertificateError, ClientError, ConnectError, Stage},
    proxy::ProxyRoute,
    service::ClientOptions,
};
use crate::config::HttpVersion;

/// The interval of keep-alive probes: firewalls and NATs forget a silent connection after a few
/// minutes, and a model may think for longer.
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);

/// The byte stream to the upstream, with or without TLS.
pub(super) type UpstreamStream = MaybeHttpsStream<TokioIo<TcpStream>>;

/// Opens connections to one origin.
pub(super) struct Connector {
    pub(super) origin: Origin,
    pub(super) route: ProxyRoute,
    pub(super) http: HttpVersion,
    pub(super) max_head: usize,
    pub(super) timeout: Duration,
    tls: Arc<ClientConfig>,
}

/// The stage that a connection attempt has reached; clones share it. An error alone does not tell
/// whether the name or the host failed.
#[derive(Clone)]
pub(super) struct StageTracker(Arc<Mutex<Stage>>);

/// The system's resolver, which reports its stage.
#[derive(Clone)]
struct Resolver {
    inner: GaiResolver,
    stage: StageTracker,
    next: Stage,
}

// === impl Connector ===

impl Connector {
    /// A connector to the origin of `base`.
    ///
    /// # Errors
    ///
    /// [`ClientError::Proxy`] if the proxy speaks an unknown protocol.
    pub(super) fn new(
        base: &BaseUrl,
        options: &ClientOptions,
        tls: Arc<ClientConfig>,
    ) -> Result<Self, ClientError> {
        Ok(Self {
            route: ProxyRoute::choose(&options.proxy, base, options.http)?,
            origin: base.origin.clone(),
            http: options.http,
            max_head: options.max_head,
            timeout: options.connect_timeout,
            tls,
        })
    }

    /// Opens a connection that is ready for the first byte of HTTP.
    pub(super) async fn connect(&self, stage: &StageTracker) -> Result<UpstreamStream, BoxError> {
        let stream = match &self.route {
            ProxyRoute::Direct => {
                let tcp = tcp(stage, Stage::Connect);
                self.over(tcp, &self.origin, stage).await?
            }
            ProxyRoute::Forward(proxy) => {
                let tcp = tcp(stage, Stage::Proxy);
                self.over(tcp, &proxy.origin, stage).await?
            }
            ProxyRoute::Tunnel(proxy) => {
                let tcp = tcp(stage, Stage::Proxy);
                let mut tunnel = Tunnel::new(proxy.origin.url()?, tcp);
                if let Some(authorization) = &proxy.authorization {
                    tunnel = tunnel.with_auth(authorization.clone());
                }
                self.over(tunnel, &self.origin, stage).await?
            }
        };
        if self.http == HttpVersion::H2 && self.origin.https && !chose_h2(&stream) {
            return Err("the server does not offer HTTP/2\nhint: set http = \"auto\"".into());
        }
        Ok(stream)
    }

    /// A connection to `origin` on a stream from `tcp`, with TLS if the origin's URL says so.
    async fn over<T>(
        &self,
        tcp: T,
        origin: &Origin,
        stage: &StageTracker,
    ) -> Result<UpstreamStream, BoxError>
    where
        T: Service<Uri, Response = TokioIo<TcpStream>>,
        T::Future: Send + 'static,
        T::Error: Into<BoxError>,
    {
        let stage = stage.clone();
        let tcp = tcp.map_response(move |io| {
            stage.set(Stage::Tls);
            io
        });
        let connector = HttpsConnector::from((tcp, self.tls.clone()));
        connector.oneshot(origin.url()?).await
    }

    /// A connector to the same origin that does not offer HTTP/2.
    pub(super) fn for_http1(&self) -> Self {
        let mut tls = (*self.tls).clone();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self {
            origin: self.origin.clone(),
            route: self.route.clone(),
            http: HttpVersion::H1,
            max_head: self.max_head,
            timeout: self.timeout,
            tls: Arc::new(tls),
        }
    }

    /// Whether ALPN chose HTTP/2, or the configuration says so.
    pub(super) fn speaks_h2(&self, stream: &UpstreamStream) -> bool {
        if self.origin.https {
            chose_h2(stream)
        } else {
            self.http == HttpVersion::H2
        }
    }

    /// The error for a failure at `stage`: not sent, so safe to retry, unless the certificate does
    /// not verify, which no retry fixes.
    pub(super) fn error_at(&self, stage: Stage, error: BoxError) -> BoxError {
        if let Some(reason) = refused_certificate(&*error) {
            return CertificateError {
                host: self.origin.host.clone(),
                reason: reason.clone(),
            }
            .into();
        }
        let failing = match &self.route {
            ProxyRoute::Forward(proxy) | ProxyRoute::Tunnel(proxy)
                if matches!(stage, Stage::Resolve | Stage::Proxy) =>
            {
                &proxy.origin
            }
            _ => &self.origin,
        };
        let error = ConnectError {
            stage,
            address: failing.address(),
            source: error,
        };
        NotSent(error.into()).into()
    }
}

fn chose_h2(stream: &UpstreamStream) -> bool {
    stream.connected().is_negotiated_h2()
}

fn refused_certificate<'a>(
    error: &'a (dyn Error + 'static),
) -> Option<&'a rustls::CertificateError> {
    if let Some(rustls::Error::InvalidCertificate(reason)) = error.downcast_ref() {
        return Some(reason);
    }
    // As a source, an io::Error hides the error that it wraps.
    let inner = match error.downcast_ref::<io::Error>() {
        Some(error) => error.get_ref().map(|inner| inner as &(dyn Error + 'static)),
        None => error.source(),
    };
    inner.and_then(refused_certificate)
}

/// Opens TCP connections. Sets `stage` when a name look-up begins, and to `next` when it ends.
fn tcp(stage: &StageTracker, next: Stage) -> HttpConnector<Resolver> {
    stage.set(next);
    let mut connector = HttpConnector::new_with_resolver(Resolver {
        inner: GaiResolver::new(),
        stage: stage.clone(),
        next,
    });
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_keepalive(Some(TCP_KEEPALIVE));
    connector
}

// === impl StageTracker ===

impl StageTracker {
    pub(super) fn set(&self, stage: Stage) {
        *self.0.lock() = stage;
    }

    pub(super) fn get(&self) -> Stage {
        *self.0.lock()
    }
}

impl Default for StageTracker {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Stage::Connect)))
    }
}

// === impl Resolver ===

impl Service<Name> for Resolver {
    type Response = GaiAddrs;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<GaiAddrs>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        self.stage.set(Stage::Resolve);
        let (lookup, stage, next) = (self.inner.call(name), self.stage.clone(), self.next);
        Box::pin(async move {
            let addresses = lookup.await?;
            stage.set(next);
            Ok(addresses)
        })
    }
}
