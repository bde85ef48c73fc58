//! A server whose every byte a test writes itself, and a client for it.

use std::{future::poll_fn, net::SocketAddr, sync::Arc, task::Poll, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Uri};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use hyper_util::client::proxy::matcher::Matcher;
use pacegate::{
    client::{Client, ClientOptions, ResponseBody},
    config::{HttpVersion, Roots, Tls},
};
use pacegate_layers::error::BoxError;
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use tempfile::NamedTempFile;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tower::ServiceExt;

/// Long enough that only a hang reaches it, however busy the machine is.
pub(crate) const LONG: Duration = Duration::from_secs(60);
/// Short enough to wait for, long enough for loopback.
pub(crate) const SHORT: Duration = Duration::from_millis(150);

pub(crate) struct Server {
    listener: TcpListener,
}

/// The server's end of one connection.
pub(crate) struct Peer<S = TcpStream> {
    pub(crate) io: S,
    read: Vec<u8>,
}

/// A self-signed certificate and its key.
pub(crate) struct Certificate {
    certificate: rcgen::Certificate,
    key: rcgen::KeyPair,
}

// === impl Server ===

impl Server {
    pub(crate) async fn bind() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { listener }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    pub(crate) fn url(&self) -> Uri {
        format!("http://{}/v1", self.address()).parse().unwrap()
    }

    /// `localhost`, so that a certificate can name it.
    pub(crate) fn https_url(&self) -> Uri {
        format!("https://localhost:{}/v1", self.address().port())
            .parse()
            .unwrap()
    }

    pub(crate) async fn accept(&self) -> Peer {
        Peer::new(self.listener.accept().await.unwrap().0)
    }

    /// Accepts a connection, reads one request and answers it; the connection stays open.
    pub(crate) async fn answer(&self, response: &str) -> (Peer, String) {
        let mut peer = self.accept().await;
        let request = peer.answer(response).await;
        (peer, request)
    }
}

// === impl Peer ===

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    pub(crate) fn new(io: S) -> Self {
        Self {
            io,
            read: Vec::new(),
        }
    }

    /// Reads one request, body included, and returns its head.
    pub(crate) async fn request(&mut self) -> String {
        let end = loop {
            if let Some(end) = self.read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
            assert_ne!(
                self.io.read_buf(&mut self.read).await.unwrap(),
                0,
                "no request"
            );
        };
        let head = String::from_utf8(self.read.drain(..end).collect()).unwrap();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.parse().unwrap());
        while self.read.len() < length {
            assert_ne!(
                self.io.read_buf(&mut self.read).await.unwrap(),
                0,
                "no body"
            );
        }
        self.read.drain(..length);
        head
    }

    pub(crate) async fn send(&mut self, text: &str) {
        self.io.write_all(text.as_bytes()).await.unwrap();
        self.io.flush().await.unwrap();
    }

    pub(crate) async fn answer(&mut self, response: &str) -> String {
        let request = self.request().await;
        self.send(response).await;
        request
    }

    /// What comes until the other side hangs up, one way or the other.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut rest = std::mem::take(&mut self.read);
        let reading = async { while self.io.read_buf(&mut rest).await.is_ok_and(|n| n > 0) {} };
        tokio::time::timeout(LONG, reading)
            .await
            .expect("the client should hang up");
        rest
    }
}

impl Peer {
    pub(crate) async fn tls(self, config: Arc<ServerConfig>) -> Tlsed {
        Ok(Peer::new(
            tokio_rustls::TlsAcceptor::from(config)
                .accept(self.io)
                .await?,
        ))
    }
}

pub(crate) type Tlsed = std::io::Result<Peer<tokio_rustls::server::TlsStream<TcpStream>>>;

// === impl Certificate ===

impl Certificate {
    pub(crate) fn for_name(name: &str) -> Self {
        Self::new(rcgen::CertificateParams::new([name.to_owned()]).unwrap())
    }

    pub(crate) fn new(params: rcgen::CertificateParams) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        Self {
            certificate: params.self_signed(&key).unwrap(),
            key,
        }
    }

    pub(crate) fn server(&self, alpn: &[&str]) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).unwrap();
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    /// The certificate as a `ca-file`.
    pub(crate) fn file(&self) -> NamedTempFile {
        let file = NamedTempFile::new().unwrap();
        std::fs::write(file.path(), self.certificate.pem()).unwrap();
        file
    }
}

// === the client ===

pub(crate) fn options() -> ClientOptions {
    ClientOptions {
        http: HttpVersion::Auto,
        max_head: 64 * 1024,
        connect_timeout: LONG,
        head_timeout: LONG,
        idle_timeout: LONG,
        tls: Tls {
            roots: Roots::Bundled,
            ca_file: None,
        },
        proxy: Matcher::builder().build(),
    }
}

/// Options that trust `file`.
pub(crate) fn trusting(file: &NamedTempFile) -> ClientOptions {
    let mut options = options();
    options.tls.ca_file = Some(file.path().to_owned());
    options
}

pub(crate) fn client(server: &Server) -> Client {
    Client::new(server.url(), options()).unwrap()
}

pub(crate) async fn get(client: &Client, path: &str) -> Result<Response<ResponseBody>, BoxError> {
    let request = Request::get(path).body(Full::default()).unwrap();
    client.clone().oneshot(request).await
}

pub(crate) async fn post(
    client: &Client,
    body: impl Into<Bytes>,
) -> Result<Response<ResponseBody>, BoxError> {
    let request = Request::post("/chat/completions")
        .body(Full::new(body.into()))
        .unwrap();
    client.clone().oneshot(request).await
}

pub(crate) async fn text(response: Response<ResponseBody>) -> Result<String, BoxError> {
    let body = response.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(body.to_vec())?)
}

pub(crate) async fn frame(body: &mut ResponseBody) -> Option<Result<Frame<Bytes>, BoxError>> {
    let mut body = std::pin::Pin::new(body);
    poll_fn(|cx| body.as_mut().poll_frame(cx)).await
}

/// The data of the next frame.
pub(crate) async fn data(body: &mut ResponseBody) -> Bytes {
    let frame = frame(body).await.unwrap().unwrap();
    frame.into_data().unwrap()
}

pub(crate) fn names(headers: &HeaderMap) -> Vec<&str> {
    headers.keys().map(|name| name.as_str()).collect()
}

/// `text` as an HTTP/1.1 chunk.
pub(crate) fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
pub(crate) const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

/// Runs all of them at once and collects what they say.
pub(crate) async fn futures<F: Future>(all: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut all: Vec<_> = all.map(|one| Some(Box::pin(one))).collect();
    let mut said: Vec<_> = all.iter().map(|_| None).collect();
    poll_fn(|cx| {
        for (one, said) in all.iter_mut().zip(&mut said) {
            if let Some(running) = one
                && let Poll::Ready(output) = running.as_mut().poll(cx)
            {
                *one = None;
                *said = Some(output);
            }
        }
        if said.iter().any(Option::is_none) {
            return Poll::Pending;
        }
        Poll::Ready(said.drain(..).flatten().collect())
    })
    .await
}
