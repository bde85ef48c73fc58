//! Clients that all ask at the same moment, over sockets of their own.

use std::{future, io, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{
    net::TcpStream,
    sync::mpsc::UnboundedSender,
    task::{JoinError, JoinSet},
    time::{Instant, sleep},
};

/// As many as a window with a few sub-agents sends within some milliseconds.
const CLIENTS: usize = 5;

/// Until the gateway has accepted all connections: one that it accepts together with a request it
/// reads at once, before the earlier requests that others have sent.
const ACCEPTED: Duration = Duration::from_millis(20);

/// What a client noticed of its request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event {
    /// Which request, counted from 0.
    pub(super) request: usize,
    pub(super) at: Instant,
    pub(super) what: Noticed,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Noticed {
    /// The request is on its way to the gateway.
    Sent,
    /// The answer's head, which says how long the gateway kept the request in its queue.
    Head { queued: Duration },
    /// The first byte of the answer's body.
    FirstByte,
    /// The end of the answer.
    Done,
}

/// A burst that did not end with five answers.
#[derive(Debug, thiserror::Error)]
pub enum BurstError {
    /// The gateway does not accept.
    #[error("cannot connect to the gateway: {0}")]
    Connect(#[from] io::Error),
    /// A connection broke.
    #[error("a request got no whole answer: {0}")]
    Http(#[from] hyper::Error),
    /// A request that cannot be written.
    #[error(transparent)]
    Request(#[from] http::Error),
    /// An answer that is none.
    #[error("request {request} was answered {status}: {text}")]
    Status {
        /// Which one, counted from 1.
        request: usize,
        /// The status.
        status: StatusCode,
        /// The answer's body.
        text: String,
    },
    /// A client's task ended in a panic.
    #[error(transparent)]
    Task(#[from] JoinError),
    /// An answer that the gateway has not marked.
    #[error("request {0}: the answer has no x-pacegate-queued-ms")]
    Unmarked(usize),
}

/// A connection on which nothing was said yet.
struct Client {
    sender: SendRequest<Full<Bytes>>,
    connection: Connection<TokioIo<TcpStream>, Full<Bytes>>,
}

/// The requests' bodies, all different, so that the upstream's record can be told apart by them.
pub(super) fn bodies(model: &str) -> Vec<Bytes> {
    let body = |number| {
        let text = format!("Say something, please ({number} of {CLIENTS})");
        let body = json!({
            "model": model,
            "stream": true,
            "messages": [{ "role": "user", "content": text }],
        });
        body.to_string().into()
    };
    (1..=CLIENTS).map(body).collect()
}

/// Sends all `bodies` at once, reads the answers, and tells what happens.
///
/// # Errors
///
/// The first client that failed; the others leave.
pub(super) async fn burst(
    authority: &str,
    bodies: Vec<Bytes>,
    tell: UnboundedSender<Event>,
) -> Result<(), BurstError> {
    // All connections first: the requests are to arrive together, and in order.
    let mut chats = Vec::new();
    for body in bodies {
        let request = Request::post("/v1/chat/completions")
            .header(header::HOST, authority)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
        chats.push((Client::connect(authority).await?, request));
    }
    sleep(ACCEPTED).await;
    let mut clients = JoinSet::new();
    for (number, (client, request)) in chats.into_iter().enumerate() {
        let tell = tell.clone();
        let notice = move |what| {
            // Whoever listened is gone, and so is the reason to tell.
            let _left = tell.send(Event {
                request: number,
                at: Instant::now(),
                what,
            });
        };
        clients.spawn(client.chat(number + 1, request, notice));
    }
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    Ok(())
}

// === impl Client ===

impl Client {
    async fn connect(authority: &str) -> Result<Self, BurstError> {
        let stream = TcpStream::connect(authority).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        Ok(Self { sender, connection })
    }

    async fn chat(
        self,
        number: usize,
        request: Request<Full<Bytes>>,
        notice: impl Fn(Noticed),
    ) -> Result<(), BurstError> {
        let driven = async {
            // What ends it too early also ends the exchange, which knows better what was lost.
            let _ended = self.connection.await;
            future::pending().await
        };
        tokio::select! {
            // The request is on the wire after the first poll, so clients ask in their order.
            biased;
            outcome = exchange(self.sender, number, request, notice) => outcome,
            never = driven => never,
        }
    }
}

async fn exchange(
    mut sender: SendRequest<Full<Bytes>>,
    number: usize,
    request: Request<Full<Bytes>>,
    notice: impl Fn(Noticed),
) -> Result<(), BurstError> {
    notice(Noticed::Sent);
    let mut response = sender.send_request(request).await?;
    let status = response.status();
    if status != StatusCode::OK {
        let body = response.into_body().collect().await?.to_bytes();
        return Err(BurstError::Status {
            request: number,
            status,
            text: String::from_utf8_lossy(&body).into_owned(),
        });
    }
    let queued = response
        .headers()
        .get("x-pacegate-queued-ms")
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .map(Duration::from_millis)
        .ok_or(BurstError::Unmarked(number))?;
    notice(Noticed::Head { queued });
    let body = response.body_mut();
    if body.frame().await.transpose()?.is_some() {
        notice(Noticed::FirstByte);
    }
    while body.frame().await.transpose()?.is_some() {}
    notice(Noticed::Done);
    Ok(())
}
