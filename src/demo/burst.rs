//! Clients that send their requests at the same moment, each over its own connection.

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

/// As many requests as a window with a few sub-agents sends within some milliseconds.
const CLIENTS: usize = 5;

/// Time for the gateway to accept all connections. A connection that is accepted later is read at
/// once, so its request would overtake earlier ones.
const ACCEPTED: Duration = Duration::from_millis(20);

/// An event of a request, as its client sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClientEvent {
    /// Index of the request.
    pub(super) request: usize,
    pub(super) at: Instant,
    pub(super) kind: ClientEventKind,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum ClientEventKind {
    /// The request was sent.
    Sent,
    /// The response headers arrived; they say how long the request was queued.
    Headers { queued: Duration },
    /// The first byte of the response body arrived.
    FirstByte,
    /// The response ended.
    Done,
}

/// Not all requests of a burst succeeded.
#[derive(Debug, thiserror::Error)]
pub enum BurstError {
    /// The gateway does not accept connections.
    #[error("cannot connect to the gateway: {0}")]
    Connect(#[from] io::Error),
    /// A connection broke.
    #[error("a request got no whole answer: {0}")]
    Http(#[from] hyper::Error),
    /// A request cannot be built.
    #[error(transparent)]
    Request(#[from] http::Error),
    /// The status of a response is not 200.
    #[error("request {request} was answered {status}: {text}")]
    Status {
        /// Number of the request, counted from 1.
        request: usize,
        /// The status.
        status: StatusCode,
        /// The response body.
        text: String,
    },
    /// The task of a client panicked.
    #[error(transparent)]
    Task(#[from] JoinError),
    /// A response without the header of its queue time.
    #[error("request {0}: the answer has no x-pacegate-queued-ms")]
    Unmarked(usize),
}

/// A client that is connected and has sent nothing.
struct BurstClient {
    sender: SendRequest<Full<Bytes>>,
    connection: Connection<TokioIo<TcpStream>, Full<Bytes>>,
}

/// The request bodies, all different, so that the upstream's record tells the requests apart.
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

/// Sends all `bodies` at once, reads the responses, and reports each event.
///
/// # Errors
///
/// The first request that failed; the other clients disconnect.
pub(super) async fn burst(
    authority: &str,
    bodies: Vec<Bytes>,
    events: UnboundedSender<ClientEvent>,
) -> Result<(), BurstError> {
    // All connections first, so that the requests arrive together and in order.
    let mut chats = Vec::new();
    for body in bodies {
        let request = Request::post("/v1/chat/completions")
            .header(header::HOST, authority)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
        chats.push((BurstClient::connect(authority).await?, request));
    }
    sleep(ACCEPTED).await;
    let mut clients = JoinSet::new();
    for (number, (client, request)) in chats.into_iter().enumerate() {
        let events = events.clone();
        let notify = move |kind| {
            // Without a receiver nobody needs the event.
            let _left = events.send(ClientEvent {
                request: number,
                at: Instant::now(),
                kind,
            });
        };
        clients.spawn(client.chat(number + 1, request, notify));
    }
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    Ok(())
}

// === impl BurstClient ===

impl BurstClient {
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
        notify: impl Fn(ClientEventKind),
    ) -> Result<(), BurstError> {
        let driven = async {
            // An error ends the exchange, too, which reports it.
            let _ended = self.connection.await;
            future::pending().await
        };
        tokio::select! {
            // The first poll sends the request, so requests are sent in order.
            biased;
            result = exchange(self.sender, number, request, notify) => result,
            never = driven => never,
        }
    }
}

async fn exchange(
    mut sender: SendRequest<Full<Bytes>>,
    number: usize,
    request: Request<Full<Bytes>>,
    notify: impl Fn(ClientEventKind),
) -> Result<(), BurstError> {
    notify(ClientEventKind::Sent);
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
    notify(ClientEventKind::Headers { queued });
    let body = response.body_mut();
    if body.frame().await.transpose()?.is_some() {
        notify(ClientEventKind::FirstByte);
    }
    while body.frame().await.transpose()?.is_some() {}
    notify(ClientEventKind::Done);
    Ok(())
}
