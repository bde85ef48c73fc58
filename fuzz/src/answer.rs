//! Where answers end, and what is passed on of them. Input: a line whose bytes are the lengths of the
//! pieces, then what an upstream says before it closes the connection.

use std::{cell::OnceCell, net::SocketAddr, pin::pin, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::{client::proxy::matcher::Matcher, rt::TokioIo};
use pacegate::{
    config::Upstream,
    upstream::{Client, ClientOptions},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    time::sleep,
};
use tower::Service;

use super::input;

/// What a client made of an answer.
#[derive(Debug, PartialEq)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
    /// It has come to its end, as far as the client can tell.
    is_whole: bool,
}

struct Rig {
    runtime: Runtime,
    listener: TcpListener,
    address: SocketAddr,
    upstream: Upstream,
}

/// More costs time and shows nothing new.
const LONGEST: usize = 4096;
const MOST_PIECES: usize = 4;

/// What has been said is read by then, with nobody else on its thread.
const READ: Duration = Duration::from_millis(1);

const QUESTION: &str = "{}";

thread_local! {
    static RIG: OnceCell<Rig> = const { OnceCell::new() };
}

/// How an answer comes decides nothing of it. What is taken for whole is what hyper's client takes it
/// for, which is the more lenient one. And a connection that is kept has no byte left over: none of
/// the next answer's, were there one.
pub fn run(input: &[u8]) {
    let (lengths, said) = input::first_line(input);
    let said = &said[..said.len().min(LONGEST)];
    RIG.with(|rig| {
        let rig = rig.get_or_init(Rig::start);
        let (answer, is_kept) = rig.ours(&[said]);
        let (cut, _) = rig.ours(&input::cut(said, lengths, MOST_PIECES));
        assert_eq!(answer, cut);
        if is_kept {
            let (shorter, _) = rig.ours(&[&said[..said.len() - 1]]);
            assert!(shorter.is_none_or(|shorter| !shorter.is_whole));
        }
        let Some(answer) = answer.filter(|answer| answer.is_whole) else {
            assert!(!is_kept);
            return;
        };
        let hypers = rig.hypers(said).unwrap();
        assert_eq!(
            (answer.status, &answer.body, answer.is_whole),
            (hypers.status, &hypers.body, hypers.is_whole)
        );
        assert_eq!(
            answer.trailers.unwrap_or_default(),
            hypers.trailers.unwrap_or_default()
        );
        for name in answer.headers.keys() {
            let values = |headers: &HeaderMap| {
                let mut values: Vec<_> = headers.get_all(name).into_iter().cloned().collect();
                // A length may be said twice.
                values.dedup_by(|one, other| name == http::header::CONTENT_LENGTH && one == other);
                values
            };
            assert_eq!(values(&answer.headers), values(&hypers.headers), "{name}");
        }
    });
}

// === impl Rig ===

impl Rig {
    fn start() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let config = input::configured(&format!(
            "[[upstream]]\nname = \"one\"\npreset = \"local\"\n\
             base-url = \"http://{address}/v1\"\n"
        ));
        Self {
            runtime,
            listener,
            address,
            upstream: config.upstreams.into_iter().next().unwrap(),
        }
    }

    /// What our client makes of `pieces`, and whether it keeps the connection.
    fn ours(&self, pieces: &[&[u8]]) -> (Option<Answer>, bool) {
        let options = ClientOptions::new(&self.upstream, Matcher::builder().build());
        let mut client = Client::new(self.upstream.base_url.clone(), options).unwrap();
        let question = Request::post("/chat/completions")
            .body(Full::from(QUESTION))
            .unwrap();
        let asking = async {
            let response = client.call(question).await.ok()?;
            Some(collect(response).await)
        };
        let answer = self.hear(asking, pieces);
        (answer, client.idle_connections() > 0)
    }

    fn hypers(&self, said: &[u8]) -> Option<Answer> {
        let asking = async {
            let stream = TcpStream::connect(self.address).await.unwrap();
            let (mut client, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
            let question = Request::post("/v1/chat/completions")
                .body(Full::<Bytes>::from(QUESTION))
                .unwrap();
            let mut answering = pin!(async {
                let response = client.send_request(question).await.ok()?;
                Some(collect(response).await)
            });
            tokio::select! {
                answer = &mut answering => answer,
                // What it has read is still to be had.
                _ended = connection => answering.await,
            }
        };
        self.hear(asking, &[said])
    }

    /// What comes of `asking` while `pieces` are said.
    fn hear<T>(&self, asking: impl Future<Output = T>, pieces: &[&[u8]]) -> T {
        let both = async { tokio::join!(asking, self.say(pieces)).0 };
        self.runtime.block_on(both)
    }

    /// Waits for a question and says `pieces`, each when the one before has been read.
    async fn say(&self, pieces: &[&[u8]]) {
        let (mut stream, _) = self.listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut question = Vec::new();
        while !question.ends_with(QUESTION.as_bytes()) {
            assert_ne!(stream.read_buf(&mut question).await.unwrap(), 0);
        }
        for (number, piece) in pieces.iter().enumerate() {
            if number > 0 {
                sleep(READ).await;
            }
            // It may have been closed by what came before.
            let _gone = stream.write_all(piece).await;
        }
    }
}

async fn collect<B>(response: Response<B>) -> Answer
where
    B: Body<Data = Bytes> + Unpin,
{
    let (head, mut body) = response.into_parts();
    let mut answer = Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body: Vec::new(),
        trailers: None,
        is_whole: true,
    };
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            answer.is_whole = false;
            break;
        };
        match frame.into_data() {
            Ok(data) => answer.body.extend_from_slice(&data),
            Err(frame) => answer.trailers = frame.into_trailers().ok(),
        }
    }
    answer
}
