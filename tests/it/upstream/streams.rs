//! HTTP/2: streams are counted, and a request that was not processed is told apart.

use std::{collections::VecDeque, future::poll_fn, time::Duration};

use bytes::Bytes;
use h2::{
    Reason, RecvStream,
    server::{self, Connection, SendResponse},
};
use http::{Request, Response};
use http_body_util::Full;
use pacegate::{
    client::{
        Client,
        error::{ConnectError, ConnectionLost, Http1Required, NoStreams, Truncated},
    },
    config::HttpVersion,
};
use pacegate_layers::error::{BoxError, NotProcessed, NotSent, SlowDown, Stale};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    join,
    net::TcpStream,
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
use tower::{Service, ServiceExt};

use super::support::*;

/// A request that has arrived, and the place for its response.
struct Arrival {
    /// Which connection it came over.
    connection: usize,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
}

/// A server without TLS that passes on what arrives.
struct Arrivals {
    arrived: mpsc::UnboundedReceiver<Arrival>,
    _serving: JoinSet<()>,
}

// === impl Arrivals ===

impl Arrivals {
    /// Allows the next of `limits` on each connection, and the last one on all further ones. None
    /// leaves the limit out.
    fn serve(server: Server, limits: impl Into<VecDeque<Option<u32>>>) -> Self {
        let mut limits = limits.into();
        let (send, arrived) = mpsc::unbounded_channel();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            for number in 0.. {
                let io = server.accept().await.io;
                let limit = match limits.len() {
                    1 => limits[0],
                    _ => limits.pop_front().unwrap(),
                };
                connections.spawn(pass_on(io, limit, number, send.clone()));
            }
        });
        Self {
            arrived,
            _serving: serving,
        }
    }

    async fn next(&mut self) -> Arrival {
        let arrived = timeout(LONG, self.arrived.recv()).await;
        arrived.expect("a request should arrive").unwrap()
    }
}

async fn pass_on(
    io: TcpStream,
    limit: Option<u32>,
    number: usize,
    arrivals: mpsc::UnboundedSender<Arrival>,
) {
    let mut builder = server::Builder::new();
    if let Some(limit) = limit {
        builder.max_concurrent_streams(limit);
    }
    let Ok(mut connection): Result<Connection<_, Bytes>, _> = builder.handshake(io).await else {
        return;
    };
    while let Some(Ok((request, respond))) = connection.accept().await {
        let arrival = Arrival {
            connection: number,
            request,
            respond,
        };
        if arrivals.send(arrival).is_err() {
            return;
        }
    }
}

// === impl Arrival ===

impl Arrival {
    fn answer(mut self) {
        let end = true;
        self.respond.send_response(Response::new(()), end).unwrap();
    }

    fn reset(mut self, reason: Reason) {
        self.respond.send_reset(reason);
    }
}

fn prior_knowledge(server: &Server) -> Client {
    let mut options = options();
    options.http = HttpVersion::H2;
    Client::new(server.url(), options).unwrap()
}

fn request() -> Request<Full<Bytes>> {
    Request::post("/chat/completions")
        .body(Full::from("{}"))
        .unwrap()
}

fn not_processed(error: &BoxError) -> Option<&NotProcessed> {
    NotSent::in_chain(&**error)?.0.downcast_ref()
}

/// Opens the first connection, so that its limit is known.
async fn warm(client: &Client, arrivals: &mut Arrivals) {
    let answering = async { arrivals.next().await.answer() };
    let (response, ()) = join!(post(client, "{}"), answering);
    text(response.unwrap()).await.unwrap();
}

#[tokio::test]
async fn further_connections_are_opened_at_the_limit_and_no_request_waits_unseen() {
    for is_warm in [false, true] {
        let server = Server::bind().await;
        let client = prior_knowledge(&server);
        let mut arrivals = Arrivals::serve(server, [Some(2)]);
        if is_warm {
            warm(&client, &mut arrivals).await;
        }
        let asking = futures((0..8).map(|_| post(&client, "{}")));
        // All are there before one is answered.
        let answering = async {
            let mut arrived = Vec::new();
            while arrived.len() < 8 {
                arrived.push(arrivals.next().await);
            }
            let mut on = [0; 4];
            for arrival in arrived {
                on[arrival.connection] += 1;
                arrival.answer();
            }
            on
        };
        let (responses, on) = join!(asking, answering);
        assert!(responses.iter().all(Result::is_ok));
        assert_eq!(on, [2; 4]);
    }
}

#[tokio::test]
async fn a_thousand_streams_are_open_at_once() {
    const STREAMS: usize = 1000;
    const LIMIT: usize = 128;

    let server = Server::bind().await;
    let client = prior_knowledge(&server);
    let mut arrivals = Arrivals::serve(server, [Some(LIMIT as u32)]);
    let asking = futures((0..STREAMS).map(|_| post(&client, "{}")));
    let answering = async {
        let mut arrived = Vec::new();
        while arrived.len() < STREAMS {
            arrived.push(arrivals.next().await);
        }
        let most = arrived.iter().map(|arrival| arrival.connection).max();
        arrived.into_iter().for_each(Arrival::answer);
        most.unwrap() + 1
    };
    let (responses, connections) = join!(asking, answering);
    assert!(responses.iter().all(Result::is_ok));
    assert_eq!(connections, STREAMS.div_ceil(LIMIT));
}

#[tokio::test]
async fn a_burst_on_a_cold_connection_does_not_take_the_first_stream_for_the_limit() {
    let server = Server::bind().await;
    let client = prior_knowledge(&server);
    let mut arrivals = Arrivals::serve(server, [None]);
    let asking = futures((0..20).map(|_| post(&client, "{}")));
    let answering = async {
        let mut arrived = Vec::new();
        while arrived.len() < 20 {
            arrived.push(arrivals.next().await);
        }
        arrived.into_iter().for_each(Arrival::answer);
    };
    let (responses, ()) = join!(asking, answering);
    assert!(responses.iter().all(Result::is_ok));
    assert_eq!(client.open_connections(), 1);
}

#[tokio::test]
async fn a_stream_counts_until_the_body_of_its_response_has_ended_or_is_dropped() {
    for is_read in [true, false] {
        let server = Server::bind().await;
        let client = prior_knowledge(&server);
        let mut arrivals = Arrivals::serve(server, [Some(1), None]);
        warm(&client, &mut arrivals).await;

        let (response, (arrival, mut body)) = join!(post(&client, "{}"), async {
            let mut arrival = arrivals.next().await;
            let body = arrival
                .respond
                .send_response(Response::new(()), false)
                .unwrap();
            (arrival, body)
        });
        let response = response.unwrap();
        // The body is still open, so this takes another connection.
        let answering = async {
            let arrival = arrivals.next().await;
            let connection = arrival.connection;
            arrival.answer();
            connection
        };
        let (second, connection) = join!(post(&client, "{}"), answering);
        second.unwrap();
        assert_eq!((arrival.connection, connection), (0, 1));

        if is_read {
            body.send_data(Bytes::from_static(b"end"), true).unwrap();
            assert_eq!(text(response).await.unwrap(), "end");
        } else {
            drop(response);
        }
        let answering = async {
            let arrival = arrivals.next().await;
            let connection = arrival.connection;
            arrival.answer();
            connection
        };
        let (third, connection) = join!(post(&client, "{}"), answering);
        third.unwrap();
        assert_eq!(connection, 0);
    }
}

/// The stream stays open, at the server, as long as the request's body is not there.
#[tokio::test]
async fn a_stream_counts_until_the_body_of_its_request_is_sent() {
    let server = Server::bind().await;
    let client = prior_knowledge(&server);
    let mut arrivals = Arrivals::serve(server, [Some(1), None]);
    warm(&client, &mut arrivals).await;
    // More than the server's window, which it does not open.
    let large = vec![b'x'; 1 << 20];
    let (early, unread) = join!(post(&client, large), async {
        let mut arrival = arrivals.next().await;
        let end = true;
        arrival
            .respond
            .send_response(Response::new(()), end)
            .unwrap();
        arrival
    });
    text(early.unwrap()).await.unwrap();
    let answering = async {
        let arrival = arrivals.next().await;
        let connection = arrival.connection;
        arrival.answer();
        connection
    };
    let (response, connection) = join!(post(&client, "{}"), answering);
    response.unwrap();
    assert_eq!((unread.connection, connection), (0, 1));
    drop(unread.request);
}

#[tokio::test]
async fn a_reserved_stream_counts_and_is_given_back() {
    let server = Server::bind().await;
    let client = prior_knowledge(&server);
    let mut arrivals = Arrivals::serve(server, [Some(1), Some(0)]);
    warm(&client, &mut arrivals).await;
    let (mut holder, mut waiting) = (client.clone(), client.clone());
    assert_ready_ok!(task::spawn(poll_fn(|cx| holder.poll_ready(cx))).poll());
    let mut ready = task::spawn(poll_fn(|cx| waiting.poll_ready(cx)));
    assert_pending!(ready.poll());
    drop(holder);
    timeout(LONG, ready).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_server_that_allows_no_stream_is_given_up_after_the_connect_timeout() {
    const LIMIT: Duration = Duration::from_millis(500);

    let server = Server::bind().await;
    let mut options = options();
    options.http = HttpVersion::H2;
    options.connect_timeout = LIMIT;
    let client = Client::new(server.url(), options).unwrap();
    let _arrivals = Arrivals::serve(server, [Some(0)]);
    // The very first request need not wait for SETTINGS; hyper keeps it until they allow it.
    let mut first = client.clone();
    first.ready().await.unwrap();
    sleep(SHORT).await;
    drop(first);
    let started = Instant::now();
    for response in futures((0..3).map(|_| post(&client, "{}"))).await {
        let error = response.unwrap_err();
        let NotSent(cause) = NotSent::in_chain(&*error).unwrap();
        let cause: &ConnectError = cause.downcast_ref().unwrap();
        assert!(cause.source.is::<NoStreams>(), "{cause:?}");
    }
    assert!(started.elapsed() >= LIMIT);
    assert_eq!(client.open_connections(), 1);
}

#[tokio::test]
async fn a_refused_stream_was_not_processed_and_its_connection_takes_no_other() {
    let server = Server::bind().await;
    let client = prior_knowledge(&server);
    let mut arrivals = Arrivals::serve(server, [None]);
    let refusing = async { arrivals.next().await.reset(Reason::REFUSED_STREAM) };
    let (response, ()) = join!(post(&client, "{}"), refusing);
    let error = response.unwrap_err();
    assert!(not_processed(&error).is_some(), "{error:?}");
    let answering = async {
        let arrival = arrivals.next().await;
        assert_eq!(arrival.connection, 1);
        arrival.answer();
    };
    let (response, ()) = join!(post(&client, "{}"), answering);
    response.unwrap();
}

#[tokio::test]
async fn any_other_reset_may_have_been_processed() {
    for reason in [
        Reason::CANCEL,
        Reason::INTERNAL_ERROR,
        Reason::PROTOCOL_ERROR,
    ] {
        let server = Server::bind().await;
        let client = prior_knowledge(&server);
        let mut arrivals = Arrivals::serve(server, [None]);
        let refusing = async { arrivals.next().await.reset(reason) };
        let (response, ()) = join!(post(&client, "{}"), refusing);
        let error = response.unwrap_err();
        assert!(error.is::<ConnectionLost>(), "{reason:?}: {error:?}");
    }
}

#[tokio::test]
async fn enhance_your_calm_means_slow_down() {
    let server = Server::bind().await;
    let client = prior_knowledge(&server);
    let mut arrivals = Arrivals::serve(server, [None]);
    let refusing = async { arrivals.next().await.reset(Reason::ENHANCE_YOUR_CALM) };
    let (response, ()) = join!(post(&client, "{}"), refusing);
    let error = response.unwrap_err();
    assert!(error.is::<SlowDown>(), "{error:?}");
    assert!(
        NotSent::in_chain(&*error).is_none(),
        "it would be sent again at once"
    );
}

#[tokio::test]
async fn an_upstream_that_demands_http1_gets_it_from_then_on() {
    let certificate = Certificate::for_name("localhost");
    let file = certificate.file();
    let server = Server::bind().await;
    let client = Client::new(server.https_url(), trusting(&file)).unwrap();
    let config = certificate.server(&["h2", "http/1.1"]);
    let refusing = async {
        let peer = server.accept().await.tls(config.clone()).await.unwrap();
        let mut connection: Connection<_, Bytes> = server::handshake(peer.io).await.unwrap();
        let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
        respond.send_reset(Reason::HTTP_1_1_REQUIRED);
        // Until the client closes the connection.
        while connection.accept().await.is_some() {}
    };
    let asking = async {
        let error = post(&client, "{}").await.unwrap_err();
        assert!(not_processed(&error).is_some(), "{error:?}");
        post(&client, "{}").await.unwrap()
    };
    let serving = async {
        refusing.await;
        let mut peer = server.accept().await.tls(config.clone()).await.unwrap();
        peer.answer(OK).await;
        peer
    };
    let (peer, response) = timeout(LONG, async { join!(serving, asking) })
        .await
        .unwrap();
    assert_eq!(peer.io.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert_eq!(response.version(), http::Version::HTTP_11);
}

#[tokio::test]
async fn an_upstream_that_demands_http1_is_an_error_where_http2_is_configured() {
    let server = Server::bind().await;
    let client = prior_knowledge(&server);
    let mut arrivals = Arrivals::serve(server, [None]);
    let refusing = async { arrivals.next().await.reset(Reason::HTTP_1_1_REQUIRED) };
    let (response, ()) = join!(post(&client, "{}"), refusing);
    let error = response.unwrap_err();
    assert!(error.is::<Http1Required>(), "{error:?}");
    assert!(error.to_string().contains("http = \"auto\""), "{error}");
}

const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
const HEADERS: u8 = 1;

fn go_away(last_stream: u8, reason: Reason) -> Vec<u8> {
    let mut frame = vec![0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, last_stream];
    frame.extend(u32::from(reason).to_be_bytes());
    frame
}

/// `:status 200` without a body.
fn ok(stream: u8) -> [u8; 10] {
    [0, 0, 1, HEADERS, 5, 0, 0, 0, stream, 0x88]
}

/// Reads frames until `number` requests have begun.
async fn read_requests(io: &mut TcpStream, number: usize) {
    let mut preface = [0; 24];
    io.read_exact(&mut preface).await.unwrap();
    let mut seen = 0;
    while seen < number {
        let mut head = [0; 9];
        io.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        io.read_exact(&mut payload).await.unwrap();
        seen += usize::from(head[3] == HEADERS);
    }
}

#[tokio::test]
async fn streams_above_the_last_of_a_goaway_were_not_processed_and_those_below_are_served() {
    for reason in [Reason::NO_ERROR, Reason::ENHANCE_YOUR_CALM] {
        let server = Server::bind().await;
        let client = prior_knowledge(&server);
        let asking = futures((0..4).map(|_| post(&client, "{}")));
        let serving = async {
            let mut io = server.accept().await.io;
            io.write_all(&SETTINGS).await.unwrap();
            read_requests(&mut io, 4).await;
            io.write_all(&go_away(3, reason)).await.unwrap();
            sleep(SHORT).await;
            io.write_all(&ok(1)).await.unwrap();
            io.write_all(&ok(3)).await.unwrap();
            io
        };
        let (responses, _io) = join!(asking, serving);
        let errors: Vec<_> = responses.into_iter().filter_map(Result::err).collect();
        assert_eq!(errors.len(), 2);
        for error in errors {
            let is_told = match reason {
                Reason::NO_ERROR => not_processed(&error).is_some(),
                _ => error.is::<SlowDown>(),
            };
            assert!(is_told, "{reason:?}: {error:?}");
        }
    }
}

#[tokio::test]
async fn a_connection_that_goes_away_is_offered_no_more_and_a_reservation_on_it_is_stale() {
    let server = Server::bind().await;
    let client = prior_knowledge(&server);
    let (mut holder, other) = (client.clone(), client.clone());
    // One is in flight, so the connection stays open.
    let mut in_flight = task::spawn(post(&client, "{}"));
    assert_pending!(in_flight.poll());
    let mut io = server.accept().await.io;
    io.write_all(&SETTINGS).await.unwrap();
    sleep(SHORT).await;
    assert_pending!(in_flight.poll());
    read_requests(&mut io, 1).await;
    holder.ready().await.unwrap();
    io.write_all(&go_away(1, Reason::NO_ERROR)).await.unwrap();
    sleep(SHORT).await;
    let error = assert_ready_err!(task::spawn(poll_fn(|cx| holder.poll_ready(cx))).poll());
    assert!(error.is::<Stale>(), "{error:?}");
    assert_eq!(client.open_connections(), 1);
    let mut arrivals = Arrivals::serve(server, [None]);
    let answering = async { arrivals.next().await.answer() };
    let (response, ()) = join!(other.oneshot(request()), answering);
    response.unwrap();
    io.write_all(&ok(1)).await.unwrap();
    in_flight.await.unwrap();
}

#[tokio::test]
async fn a_connection_that_breaks_may_have_processed_its_requests() {
    let server = Server::bind().await;
    let client = prior_knowledge(&server);
    let serving = async {
        let mut io = server.accept().await.io;
        io.write_all(&SETTINGS).await.unwrap();
        read_requests(&mut io, 1).await;
    };
    let (response, ()) = join!(post(&client, "{}"), serving);
    let error = response.unwrap_err();
    assert!(error.is::<ConnectionLost>(), "{error:?}");
}

#[tokio::test]
async fn an_idle_connection_ends_after_a_minute() {
    let server = Server::bind().await;
    let client = prior_knowledge(&server);
    let mut arrivals = Arrivals::serve(server, [None]);
    warm(&client, &mut arrivals).await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(59)).await;
    tokio::time::resume();
    sleep(SHORT).await;
    assert_eq!(client.open_connections(), 1);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(2)).await;
    tokio::time::resume();
    let gone = async {
        while client.open_connections() > 0 {
            sleep(SHORT / 10).await;
        }
    };
    timeout(LONG, gone).await.expect("it is kept");
}

/// The server neither reads nor closes any more, as after a change of networks.
#[tokio::test]
async fn with_a_request_on_it_a_dead_connection_is_noticed_within_half_a_minute() {
    let server = Server::bind().await;
    let mut options = options();
    options.http = HttpVersion::H2;
    options.head_timeout = Duration::from_secs(300);
    let client = Client::new(server.url(), options).unwrap();
    let mut asking = task::spawn(post(&client, "{}"));
    assert_pending!(asking.poll());
    let mut io = server.accept().await.io;
    io.write_all(&SETTINGS).await.unwrap();
    sleep(SHORT).await;
    assert_pending!(asking.poll());
    sleep(SHORT).await;
    tokio::time::pause();
    let started = Instant::now();
    for _ in 0..28 {
        tokio::time::advance(Duration::from_secs(1)).await;
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
    let waited = started.elapsed();
    tokio::time::resume();
    let error = timeout(SHORT * 10, asking)
        .await
        .expect("it should be noticed")
        .unwrap_err();
    assert!(error.is::<ConnectionLost>(), "{error:?}");
    assert!(waited < Duration::from_secs(30));
}

#[tokio::test]
async fn a_body_that_is_reset_is_cut_short() {
    let server = Server::bind().await;
    let client = prior_knowledge(&server);
    let mut arrivals = Arrivals::serve(server, [None]);
    let (response, mut body) = join!(post(&client, "{}"), async {
        let mut arrival = arrivals.next().await;
        let head = Response::new(());
        arrival.respond.send_response(head, false).unwrap()
    });
    // Only before the response's headers it would mean that the request was not processed.
    body.send_reset(Reason::REFUSED_STREAM);
    let error = text(response.unwrap()).await.unwrap_err();
    assert!(error.is::<Truncated>(), "{error:?}");
}
