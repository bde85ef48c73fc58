//! An HTTP/2 upstream that is spoken frame by frame (RFC 9113, section 4), for what no server does on
//! command.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};
use tokio_util::task::TaskTracker;

/// A listener, and what all its connections have seen.
pub(super) struct Mock {
    address: SocketAddr,
    log: Log,
}

/// A request, once it was complete.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    /// Counted from 0.
    pub(super) connection: usize,
    pub(super) stream: u32,
    /// When its headers were read.
    pub(super) at: Instant,
    pub(super) answered: bool,
}

/// The server's end of one connection.
pub(super) struct Connection<S = TcpStream> {
    /// Counted from 0.
    pub(super) number: usize,
    io: S,
    log: Log,
}

type Log = Arc<Mutex<Vec<Head>>>;

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

pub(super) const NO_ERROR: u32 = 0;
pub(super) const REFUSED_STREAM: u32 = 7;
pub(super) const ENHANCE_YOUR_CALM: u32 = 11;
pub(super) const HTTP_1_1_REQUIRED: u32 = 13;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// `:status: 200`, by its index in HPACK's static table.
const STATUS_200: &[u8] = &[0x88];

// === impl Mock ===

impl Mock {
    /// Runs `serve` for each connection, without TLS.
    pub(super) async fn start<F, T>(serve: F) -> Self
    where
        F: Fn(Connection) -> T + Send + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let log = Log::default();
        let copy = Arc::clone(&log);
        let tasks = TaskTracker::new();
        tasks.clone().spawn(async move {
            for number in 0.. {
                let (io, _) = listener.accept().await.unwrap();
                io.set_nodelay(true).unwrap();
                if let Some(connection) = Connection::begin(number, io, Arc::clone(&copy)).await {
                    tasks.spawn(serve(connection));
                }
            }
        });
        Self { address, log }
    }

    pub(super) fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The requests in order of their ends.
    pub(super) fn heads(&self) -> Vec<Head> {
        self.log.lock().unwrap().clone()
    }
}

// === impl Connection ===

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Reads the client's preface and sends SETTINGS; `None` if the client closes the connection first.
    pub(super) async fn begin(number: usize, io: S, log: Arc<Mutex<Vec<Head>>>) -> Option<Self> {
        let mut connection = Self { number, io, log };
        let mut preface = [0; PREFACE.len()];
        connection.io.read_exact(&mut preface).await.ok()?;
        assert_eq!(preface, PREFACE);
        connection.send(SETTINGS, 0, 0, &[]).await;
        Some(connection)
    }

    /// The stream of the next request that is complete; `None` once the client has closed the
    /// connection. Not cancel safe in the middle of a frame.
    pub(super) async fn request(&mut self) -> Option<u32> {
        loop {
            let frame = self.next().await?;
            let at = Instant::now();
            match frame.kind {
                SETTINGS if frame.flags & ACK == 0 => self.send(SETTINGS, ACK, 0, &[]).await,
                PING if frame.flags & ACK == 0 => self.send(PING, ACK, 0, &frame.payload).await,
                HEADERS => self.log.lock().unwrap().push(Head {
                    connection: self.number,
                    stream: frame.stream,
                    at,
                    answered: false,
                }),
                _ => {}
            }
            if [DATA, HEADERS].contains(&frame.kind) && frame.flags & END_STREAM != 0 {
                return Some(frame.stream);
            }
        }
    }

    /// All requests until none has come for `quiet`.
    pub(super) async fn requests(&mut self, quiet: Duration) -> Vec<u32> {
        let mut streams = Vec::new();
        while let Ok(Some(stream)) = timeout(quiet, self.request()).await {
            streams.push(stream);
        }
        streams
    }

    /// Answers with 200 and `{}`.
    pub(super) async fn answer(&mut self, stream: u32) {
        for head in self.log.lock().unwrap().iter_mut() {
            head.answered |= (head.connection, head.stream) == (self.number, stream);
        }
        self.send(HEADERS, END_HEADERS, stream, STATUS_200).await;
        self.send(DATA, END_STREAM, stream, b"{}").await;
    }

    /// Answers all requests until the client hangs up.
    pub(super) async fn answer_all(mut self) {
        while let Some(stream) = self.request().await {
            self.answer(stream).await;
        }
    }

    pub(super) async fn reset(&mut self, stream: u32, code: u32) {
        self.send(RST_STREAM, 0, stream, &code.to_be_bytes()).await;
    }

    /// Says that nothing above stream `last` was processed.
    pub(super) async fn go_away(&mut self, last: u32, code: u32) {
        let payload = [last.to_be_bytes(), code.to_be_bytes()].concat();
        self.send(GOAWAY, 0, 0, &payload).await;
    }

    /// Answers nothing until the client hangs up.
    pub(super) async fn ignore_all(mut self) {
        while self.request().await.is_some() {}
    }

    async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.io.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let length = u32::from_be_bytes([0, a, b, c]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.io.read_exact(&mut payload).await.ok()?;
        Some(Frame {
            kind,
            flags,
            stream: u32::from_be_bytes(stream),
            payload,
        })
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        // A client that has hung up shows at the next read.
        let _gone = self.io.write_all(&frame).await;
        let _gone = self.io.flush().await;
    }
}
