//! Answers on their way through: every byte, when it comes, and how they end.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use pacegate::simulator::{Options, ResponseKind};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};

use super::{assert_ok, dial, pair, plain, request, sha256_hex, simulator, streamed};
use crate::support::{
    client::{BoxError, send},
    gateway::{Gateway, PATIENCE, upstream},
    lateness::Lateness,
};

async fn begin(gateway: &Gateway, body: String) -> Response<Incoming> {
    let url = gateway.url("/v1/chat/completions");
    let chat = Request::post(url).header("content-type", "application/json");
    send(chat.body(body.into()).unwrap()).await.unwrap()
}

/// What came of the body, and how it ended.
async fn read(mut response: Response<Incoming>) -> (String, Result<(), BoxError>) {
    let mut text = String::new();
    loop {
        match timeout(PATIENCE, response.frame()).await.expect("it hangs") {
            None => return (text, Ok(())),
            Some(Err(error)) => return (text, Err(error.into())),
            Some(Ok(frame)) => text += str::from_utf8(frame.data_ref().unwrap()).unwrap(),
        }
    }
}

/// An upstream's end of a connection, on which a chat has come whole.
async fn asked(listener: &TcpListener) -> TcpStream {
    let (mut peer, _) = listener.accept().await.unwrap();
    let mut read = Vec::new();
    while !read.ends_with(b"}") {
        assert_ne!(peer.read_buf(&mut read).await.unwrap(), 0);
    }
    peer
}

#[tokio::test]
async fn ten_megabytes_pass_byte_for_byte_both_ways() {
    let simulator = simulator(Options {
        response: ResponseKind::Echo,
        ..Options::default()
    })
    .await;
    let gateway = Gateway::start(&upstream(&simulator.base_url(), ""));
    let filling: String = (0..1_100_000)
        .map(|number| format!("{number:>9}"))
        .collect();
    let body = json!({ "model": "m", "messages": filling }).to_string();
    assert!(body.len() > 9_900_000);
    let answer = gateway.chat(body.clone()).await.unwrap();
    assert_ok(&answer);
    assert!(answer.body == body, "the body has changed");
    let arrival = simulator.arrivals().remove(0);
    assert_eq!(arrival.body_sha256, sha256_hex(body.as_bytes()));
    assert_eq!(
        arrival.header("content-length"),
        Some(&*body.len().to_string())
    );
    assert_eq!(arrival.sent_sha256, arrival.body_sha256);
}

#[tokio::test]
async fn ten_thousand_events_pass_byte_for_byte() {
    let simulator = simulator(Options {
        chunks: 10_000,
        comment: Some("PROCESSING".to_owned()),
        ..Options::default()
    })
    .await;
    let gateway = Gateway::start(&upstream(&simulator.base_url(), ""));
    let answer = gateway.chat(streamed("m")).await.unwrap();
    assert_ok(&answer);
    assert_eq!(
        answer.header("content-type"),
        "text/event-stream; charset=utf-8"
    );
    assert_eq!(answer.text().matches("data: ").count(), 10_003);
    assert_eq!(answer.text().matches(": PROCESSING\n\n").count(), 10_000);
    assert_eq!(
        simulator.arrivals()[0].sent_sha256,
        sha256_hex(&answer.body)
    );
}

#[tokio::test]
async fn each_chunk_passes_when_it_comes() {
    const GAP: Duration = Duration::from_millis(200);
    let simulator = simulator(Options {
        chunks: 4,
        chunk_gap: GAP,
        comment: Some("still there".to_owned()),
        ..Options::default()
    })
    .await;
    let gateway = Gateway::start(&upstream(&simulator.base_url(), ""));
    let lateness = Lateness::watch();
    let mut response = begin(&gateway, streamed("m")).await;
    // The first event is there before any gap; then one chunk after another.
    let mut seen = Vec::new();
    while let Some(frame) = response.frame().await {
        let data = frame.unwrap().into_data().unwrap();
        if data.starts_with(b": still there\n\n") {
            seen.push(Instant::now());
        }
    }
    assert_eq!(seen.len(), 4);
    for pair in seen.windows(2) {
        let gap = pair[1] - pair[0];
        assert!(
            gap > GAP / 4 || lateness.excuses("when a chunk comes", GAP / 4),
            "two chunks came together: {gap:?}"
        );
    }
}

#[tokio::test]
async fn a_lone_event_leaves_at_once_and_events_that_are_there_together_leave_together() {
    const EVENT: &str = "data: {\"n\":1}\n\n";
    const EVENTS: usize = 100;
    let chunk = format!("{:x}\r\n{EVENT}\r\n", EVENT.len());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/v1", listener.local_addr().unwrap());
    let gateway = Gateway::start(&upstream(&base, ""));
    let (seen, proof) = tokio::sync::oneshot::channel();
    let serving = async {
        let mut peer = asked(&listener).await;
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                    transfer-encoding: chunked\r\n\r\n";
        let first = format!("{head}{chunk}");
        peer.write_all(first.as_bytes()).await.unwrap();
        proof.await.unwrap();
        let rest = format!("{}0\r\n\r\n", chunk.repeat(EVENTS));
        peer.write_all(rest.as_bytes()).await.unwrap();
        peer
    };
    let asking = async {
        let json = "content-type: application/json\r\n";
        let mut client = dial(&gateway).await;
        let chat = request("POST /v1/chat/completions", json, &streamed("m"));
        client.write_all(&chat).await.unwrap();
        let mut read = Vec::new();
        while !read.windows(EVENT.len()).any(|it| it == EVENT.as_bytes()) {
            assert_ne!(client.read_buf(&mut read).await.unwrap(), 0);
        }
        seen.send(()).unwrap();
        let (mut reads, mut room) = (0, vec![0; 64 * 1024]);
        while let read @ 1.. = client.read(&mut room).await.unwrap() {
            reads += 1;
            if room[..read].ends_with(b"0\r\n\r\n") {
                break;
            }
        }
        reads
    };
    let talk = async { tokio::join!(serving, asking) };
    let (_peer, reads) = timeout(PATIENCE, talk).await.expect("it hangs");
    assert!(reads <= 5, "{reads} pieces");
}

#[tokio::test]
async fn compressed_bytes_pass_as_they_are() {
    let simulator = simulator(Options {
        response: ResponseKind::Gzip,
        ..Options::default()
    })
    .await;
    let gateway = Gateway::start(&upstream(&simulator.base_url(), ""));
    let answer = gateway.chat(plain("m")).await.unwrap();
    assert_ok(&answer);
    assert_eq!(answer.header("content-encoding"), "gzip");
    assert!(answer.body.starts_with(&[0x1f, 0x8b]));
    assert_eq!(
        simulator.arrivals()[0].sent_sha256,
        sha256_hex(&answer.body)
    );
}

#[tokio::test]
async fn a_stream_that_breaks_off_breaks_the_clients_connection() {
    let idle = "idle-timeout = \"2s\"";
    for fault in ["truncate@3", "reset@3", "stall@3"] {
        let (_simulator, gateway) = pair(&[fault], idle).await;
        let response = begin(&gateway, streamed("m")).await;
        assert_eq!(response.status(), 200);
        let (text, end) = read(response).await;
        end.expect_err(fault);
        assert_eq!(
            text.matches("data: ").count(),
            3,
            "{fault}: what came before is lost"
        );
        assert!(!text.contains("[DONE]"), "{fault}");
        let metrics = gateway.metrics().await;
        assert_eq!(metrics.sum("pacegate_answers_aborted_total"), 1, "{fault}");
    }
}

#[tokio::test]
async fn a_broken_stream_has_no_final_chunk_and_ends_in_a_reset() {
    let (_simulator, gateway) = pair(&["truncate@3"], "").await;
    let mut client = dial(&gateway).await;
    let json = "content-type: application/json\r\n";
    let chat = request("POST /v1/chat/completions", json, &streamed("m"));
    client.write_all(&chat).await.unwrap();
    let mut read = Vec::new();
    let error = client.read_to_end(&mut read).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let read = String::from_utf8(read).unwrap();
    assert!(
        read.contains("data: ") && !read.contains("\r\n0\r\n"),
        "{read}"
    );
}

/// A dialect that looks into streams reads the beginning before it passes anything on.
#[tokio::test]
async fn an_answer_that_breaks_off_before_its_first_event_has_no_clean_end() {
    let stream = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                  transfer-encoding: chunked\r\n\r\n";
    let error = "HTTP/1.1 503 Busy\r\ncontent-type: application/json\r\n\
                 content-length: 100\r\n\r\n{\"error\":";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/v1", listener.local_addr().unwrap());
    let gateway = Gateway::start(&upstream(&base, "dialect = \"openai\""));
    let answers = [
        stream.to_owned(),
        format!("{stream}5\r\n: x\n\n\r\n"),
        format!("{stream}8\r\ndata: {{\"\r\n"),
        error.to_owned(),
    ];
    for (number, answer) in answers.iter().enumerate() {
        let serving = async {
            let mut peer = asked(&listener).await;
            peer.write_all(answer.as_bytes()).await.unwrap();
        };
        let asking = async {
            let json = "content-type: application/json\r\n";
            let mut client = dial(&gateway).await;
            let chat = request("POST /v1/chat/completions", json, &streamed("m"));
            client.write_all(&chat).await.unwrap();
            let mut read = Vec::new();
            let end = client.read_to_end(&mut read).await;
            let read = String::from_utf8(read).unwrap();
            let error = end.expect_err(&read);
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
            assert!(!read.contains("\r\n0\r\n"), "{read}");
        };
        let talk = async { tokio::join!(serving, asking) };
        timeout(PATIENCE, talk).await.expect("it hangs");
        let aborted = gateway
            .metrics()
            .await
            .sum("pacegate_answers_aborted_total");
        assert_eq!(aborted, number as u64 + 1, "{answer}");
    }
}

#[tokio::test]
async fn a_body_of_known_length_that_breaks_off_breaks_the_clients_connection_too() {
    let simulator = simulator(Options {
        response: ResponseKind::Blob(1_000_000),
        faults: vec!["truncate@3".parse().unwrap()],
        ..Options::default()
    })
    .await;
    let gateway = Gateway::start(&upstream(&simulator.base_url(), ""));
    gateway.chat(plain("m")).await.unwrap_err();
}

#[tokio::test]
async fn an_early_but_clean_end_passes_as_it_is() {
    let (_simulator, gateway) = pair(&["end@3", "error@2"], "").await;
    let answer = gateway.chat(streamed("m")).await.unwrap();
    assert_ok(&answer);
    assert_eq!(answer.text().matches("data: ").count(), 3);
    assert!(!answer.text().contains("[DONE]"), "an invented end");
    // An error inside a stream is the client's business, too.
    let answer = gateway.chat(streamed("m")).await.unwrap();
    assert!(answer.text().contains("error"), "{}", answer.text());
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.sum("pacegate_answers_aborted_total"), 0);
}

#[tokio::test]
async fn a_client_that_reads_slowly_loses_nothing() {
    let simulator = simulator(Options {
        response: ResponseKind::Blob(8_000_000),
        ..Options::default()
    })
    .await;
    // Shorter than the pause below: the upstream is not silent, it is only not listened to.
    let idle = "idle-timeout = \"1500ms\"";
    let gateway = Gateway::start(&upstream(&simulator.base_url(), idle));
    let mut response = begin(&gateway, plain("m")).await;
    let first = response
        .frame()
        .await
        .unwrap()
        .unwrap()
        .into_data()
        .unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let rest: Bytes = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(first.len() + rest.len(), 8_000_000);
}
