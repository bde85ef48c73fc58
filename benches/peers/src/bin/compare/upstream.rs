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
use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    time::{Instant, interval},
};
use tokio_rustls::TlsAcceptor;

use super::clock;

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

/// Where it listens, without and with TLS.
pub(crate) struct Upstream {
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    /// The certificate of its own authority.
    pub(crate) ca: String,
}

/// The bytes of all answers.
struct Answers {
    json: Vec<u8>,
    event: Vec<u8>,
    burst: Vec<u8>,
    part: Vec<u8>,
}

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
        thread::Builder::new()
            .name("upstream".into())
            .spawn(move || run(tls, &tell))?;
        let (http, https) = told.recv().context("the upstream did not start")?;
        Ok(Self {
            http,
            https,
            ca: certificate.pem(),
        })
    }
}

fn run(
    tls: ServerConfig,
    tell: &std::sync::mpsc::Sender<(SocketAddr, SocketAddr)>,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let http = TcpListener::bind(any).await?;
        let https = TcpListener::bind(any).await?;
        tell.send((http.local_addr()?, https.local_addr()?))?;
        let answers = Arc::new(Answers::new());
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        loop {
            tokio::select! {
                accepted = http.accept() => {
                    let (socket, _) = accepted?;
                    socket.set_nodelay(true)?;
                    tokio::spawn(serve(socket, Arc::clone(&answers)));
                }
                accepted = https.accept() => {
                    let (socket, _) = accepted?;
                    socket.set_nodelay(true)?;
                    let (acceptor, answers) = (acceptor.clone(), Arc::clone(&answers));
                    tokio::spawn(async move {
                        serve(acceptor.accept(socket).await?, answers).await
                    });
                }
            }
        }
    })
}

impl Answers {
    fn new() -> Self {
        let body = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Hello! How can I help you today?"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":9,"total_tokens":18}}"#;
        let length = body.len();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        let event = chunk(EVENT);
        let part = [b"data: ", &[b'x'; PART - 8][..], b"\n\n"].concat();
        Self {
            json: [head.as_bytes(), body.as_bytes()].concat(),
            burst: event.repeat(BURST),
            part: chunk(&part),
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
async fn serve<S>(mut socket: S, answers: Arc<Answers>) -> anyhow::Result<()>
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
        answer(&mut socket, &answers, &wanted).await?;
        socket.flush().await?;
    }
}

async fn answer<S>(socket: &mut S, answers: &Answers, wanted: &str) -> anyhow::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
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
                let event = format!("data: {:020}\n\n", clock::nanos());
                socket.write_all(&chunk(event.as_bytes())).await?;
                socket.flush().await?;
            }
        }
        "burst" => socket.write_all(&answers.burst).await?,
        "bulk" => {
            for _ in 0..PARTS {
                socket.write_all(&answers.part).await?;
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

const BEAT: Duration = Duration::from_secs(1);

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
    let path = request.path.unwrap_or_default();
    let wanted = path
        .split_once("?want=")
        .map_or("json", |(_, wanted)| wanted);
    Ok(Some((head, length, wanted.to_owned())))
}
