//! HTTP/2: one connection for all.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response, Version};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pacegate::{
    client::{Client, error::Truncated},
    config::HttpVersion,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::Barrier,
};
use tower::ServiceExt;

use super::support::*;

/// Answers with the request's URI and names of fields, once `crowd` requests are there together.
async fn serve(io: impl AsyncRead + AsyncWrite + Unpin + 'static, crowd: usize) {
    let barrier = Arc::new(Barrier::new(crowd));
    let service = service_fn(move |request: Request<Incoming>| {
        let barrier = barrier.clone();
        async move {
            let (head, body) = request.into_parts();
            let length = body.collect().await.unwrap().to_bytes().len();
            barrier.wait().await;
            let seen = format!("{} {:?} {length}", head.uri, names(&head.headers));
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(seen)))
        }
    });
    let connection =
        http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(io), service);
    // The client's end decides how it ends.
    let _ended = connection.await;
}

fn prior_knowledge(server: &Server) -> Client {
    let mut options = options();
    options.http = HttpVersion::H2;
    Client::new(server.url(), options).unwrap()
}

#[tokio::test]
async fn requests_at_once_share_one_connection_that_alpn_agreed_on() {
    let certificate = Certificate::for_name("localhost");
    let file = certificate.file();
    let server = Server::bind().await;
    let client = Client::new(server.https_url(), trusting(&file)).unwrap();
    let accepted = AtomicUsize::new(0);
    let serving = async {
        let config = certificate.server(&["h2", "http/1.1"]);
        let peer = server.accept().await.tls(config).await.unwrap();
        accepted.fetch_add(1, Ordering::Relaxed);
        // Twenty must be there together before one is answered.
        serve(peer.io, 20).await;
        server.accept().await;
        accepted.fetch_add(1, Ordering::Relaxed);
    };
    let asking = async {
        for response in futures((0..20).map(|_| post(&client, "{}"))).await {
            let response = response.unwrap();
            assert_eq!(response.version(), Version::HTTP_2);
            let seen = text(response).await.unwrap();
            let port = server.address().port();
            let expected = format!("https://localhost:{port}/v1/chat/completions");
            assert!(seen.starts_with(&expected), "{seen}");
        }
    };
    tokio::select! {
        () = serving => panic!("the server ended first"),
        () = asking => {}
    }
    assert_eq!(accepted.load(Ordering::Relaxed), 1);
    assert_eq!(
        (client.open_connections(), client.idle_connections()),
        (1, 0)
    );
}

#[tokio::test]
async fn fields_of_http1_stay_behind_and_the_rest_keep_their_order() {
    let server = Server::bind().await;
    let client = prior_knowledge(&server);
    let request = Request::post("/chat/completions")
        .header("x-first", "1")
        .header("host", "placeholder.test")
        .header("connection", "keep-alive")
        .header("accept", "application/json")
        .header("keep-alive", "timeout=5")
        .header("x-last", "2")
        .body(Full::from("{}"))
        .unwrap();
    let seen = tokio::select! {
        () = async { serve(server.accept().await.io, 1).await } => panic!("the server ended first"),
        response = client.oneshot(request) => text(response.unwrap()).await.unwrap(),
    };
    let names = r#"["x-first", "accept", "x-last", "content-length"] 2"#;
    assert!(seen.ends_with(names), "{seen}");
}

#[tokio::test]
async fn a_connection_that_has_ended_is_replaced() {
    let server = Server::bind().await;
    let client = prior_knowledge(&server);
    for _ in 0..2 {
        // The server, and with it the connection, is dropped at the end of each round.
        tokio::select! {
            () = async { serve(server.accept().await.io, 1).await } => panic!("ended first"),
            response = post(&client, "{}") => drop(text(response.unwrap()).await.unwrap()),
        }
        let gone = async {
            while client.open_connections() > 0 {
                tokio::time::sleep(SHORT / 10).await;
            }
        };
        tokio::time::timeout(LONG, gone).await.expect("it is kept");
    }
}

#[tokio::test]
async fn the_connection_ends_with_the_client() {
    let server = Server::bind().await;
    let client = prior_knowledge(&server);
    let asking = async {
        text(post(&client, "{}").await.unwrap()).await.unwrap();
        drop(client);
    };
    let serving = async { serve(server.accept().await.io, 1).await };
    let both = async { tokio::join!(serving, asking) };
    tokio::time::timeout(LONG, both)
        .await
        .expect("the server should see the end");
}

/// hyper takes a stream that was reset with `NO_ERROR` for one that has ended.
#[tokio::test]
async fn a_stream_that_is_reset_without_an_error_is_cut_short_all_the_same() {
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let head = [0, 0, 1, 1, 4, 0, 0, 0, 1, 0x88]; // :status 200, END_HEADERS
    let part = *b"\0\0\x04\0\0\0\0\0\x01part"; // no END_STREAM
    let reset = [0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 0]; // NO_ERROR
    let server = Server::bind().await;
    let client = prior_knowledge(&server);
    let serving = async {
        let mut io = server.accept().await.io;
        io.write_all(&settings).await.unwrap();
        let mut read = Vec::new();
        while !read.ends_with(b"{}") {
            assert_ne!(io.read_buf(&mut read).await.unwrap(), 0);
        }
        for frame in [&head[..], &part, &reset] {
            io.write_all(frame).await.unwrap();
        }
        io
    };
    let (_io, response) = tokio::join!(serving, post(&client, "{}"));
    let mut body = response.unwrap().into_body();
    assert_eq!(data(&mut body).await, "part");
    let error = frame(&mut body).await.unwrap().unwrap_err();
    assert!(error.is::<Truncated>(), "{error:?}");
}

/// What a stream of tokens looks like: a DATA frame for each event.
const EVENT: &[u8] = b"data: {\"n\":1}\n\n";

/// h2 ends a whole connection on which too many small frames wait unread. Readers that are slow must not
/// bring that upon the others.
#[tokio::test]
async fn small_events_that_nobody_reads_yet_end_no_connection() {
    const SLOW: usize = 8;
    const EVENTS: usize = 200_000;

    let server = Server::bind().await;
    let client = prior_knowledge(&server);
    let serving = async {
        let io = server.accept().await.io;
        let service = service_fn(|request: Request<Incoming>| async move {
            let events = if request.uri().path().ends_with("/slow") {
                EVENTS
            } else {
                1
            };
            let frames =
                (0..events).map(|_| Ok::<_, Infallible>(Frame::data(Bytes::from_static(EVENT))));
            Ok::<_, Infallible>(Response::new(StreamBody::new(stream::iter(frames))))
        });
        let connection =
            http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(io), service);
        let _ended = connection.await;
    };
    let asking = async {
        let slow = futures((0..SLOW).map(|_| get(&client, "/slow"))).await;
        let mut slow: Vec<_> = slow
            .into_iter()
            .map(|slow| slow.unwrap().into_body())
            .collect();
        // As many as their windows let come.
        tokio::time::sleep(SHORT * 4).await;
        let response = get(&client, "/fast").await.unwrap();
        assert_eq!(text(response).await.unwrap().as_bytes(), EVENT);
        let whole = slow.pop().unwrap().collect().await.unwrap().to_bytes();
        assert_eq!(whole.len(), EVENTS * EVENT.len());
        for mut body in slow {
            assert!(data(&mut body).await.starts_with(b"data: "));
        }
    };
    tokio::select! {
        () = serving => panic!("the server ended first"),
        () = asking => {}
    }
}
