//! The upstream of a proxy that opens its connections itself.

use std::sync::Arc;

use anyhow::Context;
use http::{
    HeaderValue, Uri,
    uri::{PathAndQuery, Scheme},
};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::either::Either;

/// A connection with or without TLS.
pub type Io = TokioIo<Either<TcpStream, Box<TlsStream<TcpStream>>>>;

/// The upstream.
pub struct Upstream {
    uri: Uri,
    host: String,
    port: u16,
    /// `None` for plain HTTP.
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Upstream {
    /// The upstream at `url`, verified by `tls`.
    ///
    /// # Errors
    ///
    /// If the scheme of `url` is neither `http` nor `https`.
    pub fn new(url: &str, tls: ClientConfig) -> anyhow::Result<Self> {
        let uri: Uri = url.parse()?;
        let host = uri.host().context("an upstream without a host")?.to_owned();
        let https = uri.scheme() == Some(&Scheme::HTTPS);
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        let tls = if https {
            let name = ServerName::try_from(host.clone())?;
            Some((TlsConnector::from(Arc::new(tls)), name))
        } else {
            None
        };
        Ok(Self {
            uri,
            host,
            port,
            tls,
        })
    }

    /// Opens a connection.
    ///
    /// # Errors
    ///
    /// If the upstream cannot be reached or its certificate is not valid.
    pub async fn connect(&self) -> anyhow::Result<Io> {
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await?;
        tcp.set_nodelay(true)?;
        Ok(TokioIo::new(match &self.tls {
            None => Either::Left(tcp),
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), tcp).await?;
                Either::Right(Box::new(stream))
            }
        }))
    }

    /// The value of `Host`.
    ///
    /// # Errors
    ///
    /// If the authority of the URL is not a valid header value.
    pub fn host(&self) -> anyhow::Result<HeaderValue> {
        let authority = self.uri.authority().context("no authority")?;
        Ok(HeaderValue::from_str(authority.as_str())?)
    }

    /// The absolute URI for the client's `uri`.
    ///
    /// # Errors
    ///
    /// If `uri` has no path.
    pub fn whole(&self, uri: &Uri) -> anyhow::Result<Uri> {
        let mut parts = self.uri.clone().into_parts();
        parts.path_and_query = Some(path(uri)?);
        Ok(Uri::from_parts(parts)?)
    }
}

fn path(uri: &Uri) -> anyhow::Result<PathAndQuery> {
    let path = uri.path_and_query().context("a request without a path")?;
    Ok(path.clone())
}
