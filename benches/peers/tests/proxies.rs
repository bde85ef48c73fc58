//! How the bare proxies handle messages and the connections to the upstream.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::sync::Barrier;
use tokio_rustls::TlsAcceptor;

/// A running proxy; stopped when dropped.
struct Proxy {
    child: Child,
    address: SocketAddr,
}

/// An upstream that counts its connections.
struct Upstream {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
}

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

impl Proxy {
    fn start(program: &str, upstream: &str, ca: &str) -> Self {
        let address = TcpListener::bind(ANY).unwrap().local_addr().unwrap();
        let child = Command::new(program)
            .args([&address.to_string(), upstream, ca])
            .spawn()
            .unwrap();
        let this = Self { child, address };
        let patience = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < patience, "{program} does not listen");
            thread::sleep(Duration::from_millis(5));
        }
        this
    }

    fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(self.address).unwrap();
        let patience = Some(Duration::from_secs(10));
        socket.set_read_timeout(patience).unwrap();
        socket
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Responds with the request's headers and body.
async fn echo(request: Request<Incoming>) -> hyper::Result<Response<Full<Bytes>>> {
    let mut told = String::new();
    for (name, value) in request.headers() {
        told += &format!("{name}: {}\n", value.to_str().unwrap_or_default());
    }
    let path = request.uri().to_string();
    let body = request.into_body().collect().await?.to_bytes();
    let told = format!("{path}\n{told}\n{}", String::from_utf8_lossy(&body));
    let mut response = Response::new(Full::new(told.into()));
    let secret = header::HeaderValue::from_static("x-of-this-hop");
    response.headers_mut().insert(header::CONNECTION, secret);
    let secret = header::HeaderValue::from_static("1");
    response.headers_mut().insert("x-of-this-hop", secret);
    Ok(response)
}

/// Runs `serve` for each connection, on a thread of its own.
fn upstream<F>(serve: impl Fn(tokio::net::TcpStream) -> F + Send + 'static) -> Upstream
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(ANY).unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&accepted);
    thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build().unwrap().block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((socket, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(socket));
            }
        });
    });
    Upstream { address, accepted }
}

/// The headers and the body of a response with a `content-length`.
fn answer(socket: &TcpStream) -> (String, String) {
    let mut reader = BufReader::new(socket);
    let mut head = String::new();
    let mut length = 0;
    loop {
        let mut line = String::new();
        assert!(reader.read_line(&mut line).unwrap() > 0, "{head}");
        if line == "\r\n" {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap();
        }
        head += &line;
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    (head, String::from_utf8(body).unwrap())
}

const CHUNKED: &[u8] =
    b"POST /v1/chat?a=b HTTP/1.1\r\nhost: proxy\r\nconnection: x-mine\r\nx-mine: 1\r\n\
    x-end: 2\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n";

#[test]
fn the_inline_proxy_sends_the_whole_body_with_its_length_and_keeps_the_connection() {
    let upstream = upstream(|socket| async {
        let served = http1::Builder::new().serve_connection(TokioIo::new(socket), service_fn(echo));
        let _closed = served.await;
    });
    let url = format!("http://{}", upstream.address);
    let proxy = Proxy::start(env!("CARGO_BIN_EXE_hyper-inline-proxy"), &url, "/dev/null");
    let mut client = proxy.connect();
    for _ in 0..3 {
        client.write_all(CHUNKED).unwrap();
        let (head, body) = answer(&client);
        assert!(!head.contains("x-of-this-hop"), "{head}");
        let host = upstream.address;
        let mut lines: Vec<_> = body.lines().collect();
        lines[1..4].sort_unstable();
        let length = "content-length: 5";
        let host = format!("host: {host}");
        assert_eq!(
            lines,
            ["/v1/chat?a=b", length, &host, "x-end: 2", "", "hello"]
        );
    }
    assert_eq!(upstream.accepted.load(Ordering::SeqCst), 1);
}

#[test]
fn the_http2_proxy_opens_a_connection_more_where_the_others_are_full() {
    const TOGETHER: usize = 5;
    let (acceptor, ca) = tls();
    // Responses wait until all requests have arrived.
    let barrier = Arc::new(Barrier::new(TOGETHER));
    let upstream = upstream(move |socket| {
        let (acceptor, barrier) = (acceptor.clone(), Arc::clone(&barrier));
        async move {
            let socket = acceptor.accept(socket).await.unwrap();
            let service = service_fn(move |request| {
                let barrier = Arc::clone(&barrier);
                async move {
                    barrier.wait().await;
                    echo_of_http2(request).await
                }
            });
            let served = http2::Builder::new(TokioExecutor::new())
                .max_concurrent_streams(2)
                .serve_connection(TokioIo::new(socket), service);
            let _closed = served.await;
        }
    });
    let url = format!("https://localhost:{}", upstream.address.port());
    let ca = ca.path().to_str().unwrap();
    let proxy = Proxy::start(env!("CARGO_BIN_EXE_hyper-http2-proxy"), &url, ca);
    let clients: Vec<_> = (0..TOGETHER)
        .map(|_| {
            let mut client = proxy.connect();
            client.write_all(CHUNKED).unwrap();
            client
        })
        .collect();
    for client in &clients {
        let (_, body) = answer(client);
        let expected = format!("{url}/v1/chat?a=b\nx-end: 2\ncontent-length: 5\n\nhello");
        assert_eq!(body, expected);
    }
    // More than three if the upstream's settings arrived late.
    let accepted = upstream.accepted.load(Ordering::SeqCst);
    assert!((3..=TOGETHER).contains(&accepted), "{accepted}");
}

/// HTTP/2 forbids hop-by-hop headers.
async fn echo_of_http2(request: Request<Incoming>) -> hyper::Result<Response<Full<Bytes>>> {
    let mut response = echo(request).await?;
    response.headers_mut().remove(header::CONNECTION);
    Ok(response)
}

/// A TLS config for `localhost` with HTTP/2, and the file of its CA.
fn tls() -> (TlsAcceptor, tempfile::NamedTempFile) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["localhost".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(certificate.pem().as_bytes()).unwrap();
    (TlsAcceptor::from(Arc::new(config)), file)
}
