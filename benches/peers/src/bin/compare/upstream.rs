//! An upstream that is much faster than the gateways: it parses as little of a request as possible, and
//! responds with prepared bytes.

use std::{
    future::pending,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, anyhow};
use bytes::Bytes;
use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, interval},
};
use tokio_rustls::TlsAcceptor;

use super::clock;

mod http2;
mod open_streams;

pub(crate) use self::open_streams::OpenStreams;

/// Events of a burst.
pub(crate) const BURST: usize = 40_000;

/// An event of a burst.
pub(crate) const EVENT: &[u8] =
    b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"word \"}}]}\n\n";

/// Parts of a bulk stream, and the size of each.
pub(crate) const PARTS: usize = 4_000;
pub(crate) const PART: usize = 16 * 1024;

/// Time between two events of a paced stream.
const TICK: Duration = Duration::from_millis(2);

/// Events of a paced stream.
pub(crate) const TICKS: usize = 25;

/// Time between two events of an open stream.
const BEAT: Duration = Duration::from_secs(1);

/// A running upstream.
pub(crate) struct Upstream {
    pub(crate) listens: Addresses,
    /// The CA certificate, as PEM.
    pub(crate) ca: String,
    /// The streams that it keeps open.
    pub(crate) open_streams: Arc<OpenStreams>,
}

/// The addresses it listens on.
#[derive(Clone, Copy)]
pub(crate) struct Addresses {
    pub(crate) http: SocketAddr,
    /// TLS with HTTP/1.1 only.
    pub(crate) https: SocketAddr,
    /// TLS with HTTP/2 for clients that offer it, as most providers do.
    pub(crate) http2: SocketAddr,
}

/// The bytes of all responses; for HTTP/1.1, except `part`.
struct Answers {
    json: Vec<u8>,
    event: Vec<u8>,
    burst: Vec<u8>,
    chunked_part: Vec<u8>,
    part: Bytes,
}

/// The context of a connection.
#[derive(Clone)]
struct ConnectionContext {
    answers: Arc<Answers>,
    open_streams: Arc<OpenStreams>,
    /// Number of the connection.
    connection: usize,
}

const JSON: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Hello! How can I help you today?"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":9,"total_tokens":18}}"#;

const STREAM: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const END: &[u8] = b"0\r\n\r\n";

impl Upstream {
    /// Runs on a thread of its own, on the caller's core, until the process ends.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = CertificateParams::new(names)?.self_signed(&key)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )?;
        let (tell, told) = std::sync::mpsc::channel();
        let open_streams = Arc::new(OpenStreams::default());
        let counted = Arc::clone(&open_streams);
        thread::Builder::new()
            .name("upstream".into())
            .spawn(move || run(tls, counted, &tell))?;
        Ok(Self {
            listens: told.recv().context("the upstream did not start")?,
            ca: certificate.pem(),
            open_streams,
        })
    }
}

fn run(
    tls: ServerConfig,
    open_streams: Arc<OpenStreams>,
    tell: &std::sync::mpsc::Sender<Addresses>,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let http = TcpListener::bind(any).await?;
        let https = TcpListener::bind(any).await?;
        let http2 = TcpListener::bind(any).await?;
        tell.send(Addresses {
            http: http.local_addr()?,
            https: https.local_addr()?,
            http2: http2.local_addr()?,
        })?;
        let mut either = tls.clone();
        either.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let tls = TlsAcceptor::from(Arc::new(tls));
        let either = TlsAcceptor::from(Arc::new(either));
        let mut context = ConnectionContext {
            answers: Arc::new(Answers::new()),
            open_streams,
            connection: 0,
        };
        loop {
            let (accepted, acceptor) = tokio::select! {
                accepted = http.accept() => (accepted, None),
                accepted = https.accept() => (accepted, Some(&tls)),
                accepted = http2.accept() => (accepted, Some(&either)),
            };
            let (socket, _) = accepted?;
            socket.set_nodelay(true)?;
            context.connection += 1;
            tokio::spawn(greet(socket, acceptor.cloned(), context.clone()));
        }
    })
}

async fn greet(
    socket: TcpStream,
    acceptor: Option<TlsAcceptor>,
    context: ConnectionContext,
) -> anyhow::Result<()> {
    let Some(acceptor) = acceptor else {
        return serve(socket, context).await;
    };
    let socket = acceptor.accept(socket).await?;
    if socket.get_ref().1.alpn_protocol() == Some(b"h2") {
        http2::serve(socket, context).await
    } else {
        serve(socket, context).await
    }
}

impl Answers {
    fn new() -> Self {
        let length = JSON.len();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        let event = chunk(EVENT);
        let part = [b"data: ", &[b'x'; PART - 8][..], b"\n\n"].concat();
        Self {
            json: [head.as_bytes(), JSON.as_bytes()].concat(),
            burst: event.repeat(BURST),
            chunked_part: chunk(&part),
            part: part.into(),
            event,
        }
    }
}

fn chunk(data: &[u8]) -> Vec<u8> {
    let mut chunk = format!("{:x}\r\n", data.len()).into_bytes();
    chunk.extend_from_slice(data);
    chunk.extend_from_slice(b"\r\n");
    chunk
}

/// Responds to one request after the other. The query selects the response.
async fn serve<S>(mut socket: S, context: ConnectionContext) -> anyhow::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut read = Vec::with_capacity(64 * 1024);
    let mut sink = vec![0; 256 * 1024];
    loop {
        let (head, length, wanted) = loop {
            if let Some(parsed) = parse(&read)? {
                break parsed;
            }
            if socket.read_buf(&mut read).await? == 0 {
                return Ok(());
            }
        };
        let mut missing = (head + length).saturating_sub(read.len());
        read.drain(..read.len().min(head + length));
        while missing > 0 {
            let most = missing.min(sink.len());
            let got = socket.read(&mut sink[..most]).await?;
            if got == 0 {
                return Ok(());
            }
            missing -= got;
        }
        answer(&mut socket, &context, &wanted).await?;
        socket.flush().await?;
    }
}

async fn answer<S>(socket: &mut S, context: &ConnectionContext, wanted: &str) -> anyhow::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let answers = &context.answers;
    if wanted == "json" {
        return Ok(socket.write_all(&answers.json).await?);
    }
    socket.write_all(STREAM).await?;
    match wanted {
        "first" => {
            socket.flush().await?;
            socket.write_all(&answers.event).await?;
        }
        "ticks" => {
            let mut tick = interval(TICK);
            for _ in 0..TICKS {
                tick.tick().await;
                socket.write_all(&chunk(stamped().as_bytes())).await?;
                socket.flush().await?;
            }
        }
        "burst" => socket.write_all(&answers.burst).await?,
        "bulk" => {
            for _ in 0..PARTS {
                socket.write_all(&answers.chunked_part).await?;
            }
        }
        // One event, then one in each second, until the client closes.
        "open" => {
            socket.write_all(&answers.event).await?;
            socket.flush().await?;
            let mut beat = tokio::time::interval_at(Instant::now() + BEAT, BEAT);
            loop {
                beat.tick().await;
                socket.write_all(&answers.event).await?;
                socket.flush().await?;
            }
        }
        // Nothing more until the client closes.
        "hold" => {
            let _counted = context.open_streams.open(context.connection);
            socket.write_all(&answers.event).await?;
            socket.flush().await?;
            if socket.read(&mut [0; 64]).await? == 0 {
                return Err(anyhow!("closed"));
            }
            return pending().await;
        }
        _ => return Err(anyhow!("nothing like {wanted:?} is offered")),
    }
    Ok(socket.write_all(END).await?)
}

/// An event with the time when it was sent.
fn stamped() -> String {
    format!("data: {:020}\n\n", clock::nanos())
}

/// The response that a path with its query selects.
fn wanted(path: &str) -> &str {
    path.split_once("?want=")
        .map_or("json", |(_, wanted)| wanted)
}

/// The lengths of the request headers and the body, and the selected response; `None` if the headers
/// are incomplete.
fn parse(read: &[u8]) -> anyhow::Result<Option<(usize, usize, String)>> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut fields);
    let httparse::Status::Complete(head) = request.parse(read)? else {
        return Ok(None);
    };
    let mut length = 0;
    for field in request.headers.iter() {
        if field.name.eq_ignore_ascii_case("content-length") {
            length = std::str::from_utf8(field.value)?.parse()?;
        }
        if field.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(anyhow!("a chunked request body is not read here"));
        }
    }
    let wanted = wanted(request.path.unwrap_or_default()).to_owned();
    Ok(Some((head, length, wanted)))
}
