//! An upstream that is much faster than any of the gateways: it reads a request no further than it
//! must, and answers with bytes that were made beforehand.

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

mod held;
mod http2;

pub(crate) use self::held::Held;

/// Events of a burst.
pub(crate) const BURST: usize = 40_000;

/// What an event of a burst is.
pub(crate) const EVENT: &[u8] =
    b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"word \"}}]}\n\n";

/// Parts of a bulk stream, and the size of each.
pub(crate) const PARTS: usize = 4_000;
pub(crate) const PART: usize = 16 * 1024;

/// Between two events of a paced stream.
const TICK: Duration = Duration::from_millis(2);

/// Events of a paced stream.
pub(crate) const TICKS: usize = 25;

/// Between two events of an open stream.
const BEAT: Duration = Duration::from_secs(1);

/// An upstream that runs.
pub(crate) struct Upstream {
    pub(crate) listens: Listens,
    /// The certificate of its own authority.
    pub(crate) ca: String,
    /// The streams that are held open.
    pub(crate) held: Arc<Held>,
}

/// Where it listens.
#[derive(Clone, Copy)]
pub(crate) struct Listens {
    pub(crate) http: SocketAddr,
    /// With TLS, in HTTP/1.1 only.
    pub(crate) https: SocketAddr,
    /// With TLS, in HTTP/2 to those that offer it, as most providers do.
    pub(crate) http2: SocketAddr,
}

/// The bytes of all answers; over HTTP/1.1 but for `part`.
struct Answers {
    json: Vec<u8>,
    event: Vec<u8>,
    burst: Vec<u8>,
    chunked_part: Vec<u8>,
    part: Bytes,
}

/// What a connection has to know.
#[derive(Clone)]
struct Link {
    answers: Arc<Answers>,
    held: Arc<Held>,
    /// Its own number.
    connection: usize,
}

const JSON: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Hello! How can I help you today?"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":9,"total_tokens":18}}"#;

const STREAM: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const END: &[u8] = b"0\r\n\r\n";

impl Upstream {
    /// Runs on a thread of its own, on the core of whoever calls, for as long as the process.
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
        let held = Arc::new(Held::default());
        let counted = Arc::clone(&held);
        thread::Builder::new()
            .name("upstream".into())
            .spawn(move || run(tls, counted, &tell))?;
        Ok(Self {
            listens: told.recv().context("the upstream did not start")?,
            ca: certificate.pem(),
            held,
        })
    }
}

fn run(
    tls: ServerConfig,
    held: Arc<Held>,
    tell: &std::sync::mpsc::Sender<Listens>,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let http = TcpListener::bind(any).await?;
        let https = TcpListener::bind(any).await?;
        let http2 = TcpListener::bind(any).await?;
        tell.send(Listens {
            http: http.local_addr()?,
            https: https.local_addr()?,
            http2: http2.local_addr()?,
        })?;
        let mut either = tls.clone();
        either.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let tls = TlsAcceptor::from(Arc::new(tls));
        let either = TlsAcceptor::from(Arc::new(either));
        let mut link = Link {
            answers: Arc::new(Answers::new()),
            held,
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
            link.connection += 1;
            tokio::spawn(greet(socket, acceptor.cloned(), link.clone()));
        }
    })
}

async fn greet(socket: TcpStream, acceptor: Option<TlsAcceptor>, link: Link) -> anyhow::Result<()> {
    let Some(acceptor) = acceptor else {
        return serve(socket, link).await;
    };
    let socket = acceptor.accept(socket).await?;
    if socket.get_ref().1.alpn_protocol() == Some(b"h2") {
        http2::serve(socket, link).await
    } else {
        serve(socket, link).await
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

/// Answers one request after the other. What to answer stands in the query.
async fn serve<S>(mut socket: S, link: Link) -> anyhow::Result<()>
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
        answer(&mut socket, &link, &wanted).await?;
        socket.flush().await?;
    }
}

async fn answer<S>(socket: &mut S, link: &Link, wanted: &str) -> anyhow::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let answers = &link.answers;
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
        // One event, then one in each second, for as long as the other side stays.
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
        // Nothing more until the other side leaves.
        "hold" => {
            let _counted = link.held.open(link.connection);
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

/// An event that says when it was sent.
fn stamped() -> String {
    format!("data: {:020}\n\n", clock::nanos())
}

/// What to answer, of a path with its query.
fn wanted(path: &str) -> &str {
    path.split_once("?want=")
        .map_or("json", |(_, wanted)| wanted)
}

/// The length of the head, of the body, and what is wanted; `None` if the head is not whole.
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
