//! Opens one connection: name, TCP, proxy, TLS, all within one time-out.

use std::{error::Error, io, net::IpAddr, sync::Arc, time::Duration};

use http::{Extensions, Uri};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::{
    client::legacy::connect::{Connection as _, HttpInfo, proxy::Tunnel},
    rt::TokioIo,
};
use pacegate_layers::error::{BoxError, NotSent};
use parking_lot::Mutex;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tower::{Service, ServiceExt, service_fn};

use super::{
    endpoint::{BaseUrl, Origin},
    error::{CertificateError, ClientError, ConnectError, Stage},
    proxy::ProxyRoute,
    service::ClientOptions,
    tcp::TcpConnector,
};
use crate::config::HttpVersion;

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
    /// The address of the latest connection, the proxy's if there is one; none after a failure. It is
    /// tried first.
    latest_address: Mutex<Option<IpAddr>>,
}

/// The stage that a connection attempt has reached; clones share it. An error alone does not tell
/// whether the name or the host failed.
#[derive(Clone)]
pub(super) struct StageTracker(Arc<Mutex<Stage>>);

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
            latest_address: Mutex::default(),
        })
    }

    /// Opens a connection that is ready for the first byte of HTTP.
    pub(super) async fn connect(&self, stage: &StageTracker) -> Result<UpstreamStream, BoxError> {
        let stream = match &self.route {
            ProxyRoute::Direct => {
                let tcp = self.tcp(stage, Stage::Connect);
                self.over(tcp, &self.origin, stage).await?
            }
            ProxyRoute::Forward(proxy) => {
                let tcp = self.tcp(stage, Stage::Proxy);
                self.over(tcp, &proxy.origin, stage).await?
            }
            ProxyRoute::Tunnel(proxy) => {
                let tcp = self.tcp(stage, Stage::Proxy);
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
        *self.latest_address.lock() = remote_address(&stream);
        Ok(stream)
    }

    fn tcp(
        &self,
        stage: &StageTracker,
        connecting: Stage,
    ) -> impl Service<Uri, Response = TokioIo<TcpStream>, Error = BoxError, Future: Send + 'static> + use<>
    {
        stage.set(connecting);
        let connector = TcpConnector::new(stage, connecting, *self.latest_address.lock());
        service_fn(move |url| connector.clone().connect(url))
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
            latest_address: Mutex::default(),
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
    /// not verify or the proxy wants credentials, which no retry fixes. No address is preferred
    /// any longer.
    pub(super) fn error_at(&self, stage: Stage, error: BoxError) -> BoxError {
        // A host may accept connections and fail at TLS each time: the resolver's order counts again.
        *self.latest_address.lock() = None;
        if let Err(refused) = self.route.check_error(&error) {
            return refused.into();
        }
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

fn remote_address(stream: &UpstreamStream) -> Option<IpAddr> {
    let mut extras = Extensions::new();
    stream.connected().get_extras(&mut extras);
    let info = extras.get::<HttpInfo>()?;
    Some(info.remote_addr().ip())
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hyper_util::client::proxy::matcher::Matcher;
    use tokio::net::TcpListener;

    use super::*;
    use crate::{
        client::tls,
        config::{Roots, Tls},
    };

    fn connector(scheme: &str, server: &TcpListener) -> Connector {
        let url = format!("{scheme}://{}", server.local_addr().unwrap());
        let limit = Duration::from_secs(20);
        let options = ClientOptions {
            http: HttpVersion::Auto,
            max_head: 1024,
            connect_timeout: limit,
            head_timeout: limit,
            idle_timeout: limit,
            tls: Tls {
                roots: Roots::Bundled,
                ca_file: None,
            },
            proxy: Matcher::builder().build(),
        };
        let tls = tls::client_config(&options.tls, options.http).unwrap();
        let base = BaseUrl::new(url.parse().unwrap()).unwrap();
        Connector::new(&base, &options, tls).unwrap()
    }

    #[tokio::test]
    async fn an_address_is_preferred_after_a_connection_and_until_one_fails() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stage = StageTracker::default();
        let plain = connector("http", &server);
        plain.connect(&stage).await.unwrap();
        let localhost = Some(Ipv4Addr::LOCALHOST.into());
        assert_eq!(*plain.latest_address.lock(), localhost);

        let secure = connector("https", &server);
        *secure.latest_address.lock() = localhost;
        // The first accepted is that of the plain connector.
        server.accept().await.unwrap();
        let hanging_up = async { drop(server.accept().await.unwrap()) };
        let ((), outcome) = tokio::join!(hanging_up, secure.connect(&stage));
        let Err(error) = outcome else {
            unreachable!("no TLS was spoken")
        };
        assert_eq!(stage.get(), Stage::Tls);
        secure.error_at(stage.get(), error);
        assert_eq!(*secure.latest_address.lock(), None);
    }
}
