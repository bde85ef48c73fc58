//! One new connection: name, TCP, proxy, TLS, all within one time-out.

use std::{
    error::Error,
    future::{Ready, poll_fn, ready},
    io,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
    vec,
};

use hyper_util::{
    client::legacy::connect::{HttpConnector, dns::Name, proxy::Tunnel},
    rt::TokioIo,
};
use pacegate_layers::error::{BoxError, NotSent};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tower_service::Service;

use super::{
    base::{Base, Origin},
    client::ClientOptions,
    error::{CertificateError, ClientError, ConnectError, Stage},
    h1::Limits,
    proxy::{Proxy, Route},
    stream::Stream,
};
use crate::config::HttpVersion;

/// A silent connection is probed this often: firewalls and NATs forget one after a few minutes, and
/// a model may think for longer than that.
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);

/// Opens connections to one origin.
pub(super) struct Connector {
    pub(super) origin: Origin,
    pub(super) route: Route,
    pub(super) http: HttpVersion,
    pub(super) limits: Limits,
    pub(super) timeout: Duration,
    tls: Arc<ClientConfig>,
}

/// Addresses that were looked up already: the connector's own look-up would not tell us whether it
/// was the name or the host that failed.
#[derive(Clone)]
struct Resolved(Vec<SocketAddr>);

// === impl Connector ===

impl Connector {
    /// A connector to the origin of `base`.
    ///
    /// # Errors
    ///
    /// [`ClientError::Proxy`] if the proxy in front of it is of an unknown kind.
    pub(super) fn new(
        base: &Base,
        options: &ClientOptions,
        tls: Arc<ClientConfig>,
    ) -> Result<Self, ClientError> {
        Ok(Self {
            route: Route::choose(&options.proxy, base, options.http)?,
            origin: base.origin.clone(),
            http: options.http,
            limits: Limits {
                max_head: options.max_head,
                head_timeout: options.head_timeout,
                idle_timeout: options.idle_timeout,
            },
            timeout: options.connect_timeout,
            tls,
        })
    }

    /// A connection that is ready for the first byte of HTTP.
    pub(super) async fn connect(&self, stage: &mut Stage) -> Result<Stream, BoxError> {
        let tcp = match &self.route {
            Route::Direct => {
                let addresses = resolve(&self.origin, stage).await?;
                *stage = Stage::Connect;
                open(&self.origin, addresses).await?
            }
            Route::Forward(proxy) => {
                let addresses = resolve(&proxy.origin, stage).await?;
                *stage = Stage::Proxy;
                open(&proxy.origin, addresses).await?
            }
            Route::Tunnel(proxy) => {
                let addresses = resolve(&proxy.origin, stage).await?;
                *stage = Stage::Proxy;
                self.tunnel(proxy, addresses).await?
            }
        };
        if !self.origin.https {
            return Ok(Stream::Plain(tcp));
        }
        *stage = Stage::Tls;
        self.handshake(tcp).await
    }

    async fn tunnel(&self, proxy: &Proxy, addresses: Resolved) -> Result<TcpStream, BoxError> {
        let to_proxy = format!("http://{}/", proxy.origin.address()).parse()?;
        let mut tunnel = Tunnel::new(to_proxy, connector(addresses));
        if let Some(authorization) = &proxy.authorization {
            tunnel = tunnel.with_auth(authorization.clone());
        }
        poll_fn(|cx| tunnel.poll_ready(cx)).await?;
        let upstream = format!("http://{}/", self.origin.address()).parse()?;
        let io: TokioIo<TcpStream> = tunnel.call(upstream).await?;
        Ok(io.into_inner())
    }

    async fn handshake(&self, tcp: TcpStream) -> Result<Stream, BoxError> {
        let name = ServerName::try_from(self.origin.bare_host().to_owned())?;
        let connector = TlsConnector::from(self.tls.clone());
        let stream = Stream::Tls(Box::new(connector.connect(name, tcp).await?));
        if self.http == HttpVersion::H2 && !stream.chose_h2() {
            return Err("the server does not offer HTTP/2\nhint: set http = \"auto\"".into());
        }
        Ok(stream)
    }

    /// Whether HTTP/2 was agreed on, or is known beforehand.
    pub(super) fn speaks_h2(&self, stream: &Stream) -> bool {
        match stream {
            Stream::Plain(_) => self.http == HttpVersion::H2,
            Stream::Tls(_) => stream.chose_h2(),
        }
    }

    /// What a failure at `stage` means for the request: not sent, and safe to retry, unless the
    /// certificate does not verify, which no retry mends.
    pub(super) fn explain(&self, stage: Stage, error: BoxError) -> BoxError {
        if let Some(reason) = refused_certificate(&*error) {
            return CertificateError {
                host: self.origin.host.clone(),
                reason: reason.clone(),
            }
            .into();
        }
        let failing = match &self.route {
            Route::Forward(proxy) | Route::Tunnel(proxy)
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

fn refused_certificate<'a>(
    error: &'a (dyn Error + 'static),
) -> Option<&'a rustls::CertificateError> {
    let error = error.downcast_ref::<io::Error>()?.get_ref()?;
    match error.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(reason) => Some(reason),
        _ => None,
    }
}

async fn resolve(origin: &Origin, stage: &mut Stage) -> io::Result<Resolved> {
    *stage = Stage::Resolve;
    let addresses = tokio::net::lookup_host((origin.bare_host(), origin.port)).await?;
    Ok(Resolved(addresses.collect()))
}

fn connector(addresses: Resolved) -> HttpConnector<Resolved> {
    let mut connector = HttpConnector::new_with_resolver(addresses);
    connector.set_nodelay(true);
    connector.set_keepalive(Some(TCP_KEEPALIVE));
    connector
}

async fn open(origin: &Origin, addresses: Resolved) -> Result<TcpStream, BoxError> {
    let mut connector = connector(addresses);
    poll_fn(|cx| connector.poll_ready(cx)).await?;
    let uri = format!("http://{}/", origin.address()).parse()?;
    Ok(connector.call(uri).await?.into_inner())
}

// === impl Resolved ===

impl Service<Name> for Resolved {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Ready<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _name: Name) -> Self::Future {
        ready(Ok(std::mem::take(&mut self.0).into_iter()))
    }
}
