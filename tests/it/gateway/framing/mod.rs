//! How requests may be written. One that two programs could read differently is refused, or it reaches
//! the upstream as one request that can be read in one way only: what follows it can never be taken for
//! a part of it, nor a part of it for a request.

use pacegate::simulator::{Arrival, Simulator};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{dial, pair, raw};
use crate::support::gateway::{Gateway, PATIENCE};

mod corpus;

/// What a smuggler would want to reach the upstream.
const BEHIND: &str = "GET /v1/smuggled HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

/// What every row of the corpus that has a body says in it.
const BODY: &str = "{\"model\":\"m\"}";

fn bytes(text: &str) -> Vec<u8> {
    text.replace('@', "\r\n").into_bytes()
}

/// Every row: its name, its bytes, and the status.
fn rows() -> Vec<(&'static str, Vec<u8>, u16)> {
    let heads = corpus::HEADS
        .iter()
        .map(|(name, head, status)| (*name, bytes(head), *status));
    let lines = corpus::LINES.iter().map(|(name, line, status)| {
        let head = format!("{line}\r\nhost: localhost\r\n\r\n");
        (*name, head.into_bytes(), *status)
    });
    let fields = corpus::FIELDS.iter().map(|(name, fields, body, status)| {
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1@host: localhost@content-type: \
             application/json@{fields}@@{body}"
        );
        (*name, bytes(&request), *status)
    });
    heads.chain(lines).chain(fields).collect()
}

/// Sends `request`, and returns the beginning of the answer; empty if the connection ends without one.
async fn beginning(gateway: &Gateway, request: &[u8]) -> String {
    let mut stream = dial(gateway).await;
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    let read = async {
        while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
            match stream.read_buf(&mut answer).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => break,
            }
        }
    };
    timeout(PATIENCE, read).await.expect("no answer and no end");
    String::from_utf8(answer).unwrap()
}

/// Whether `answer` refuses a request with `status`. hyper says nothing to what begins as HTTP/2.
fn refuses(answer: &str, status: u16) -> bool {
    let status = status.to_string();
    answer.is_empty() || answer.get(9..12) == Some(&*status)
}

/// One request, whose body has the length that its one field says.
#[track_caller]
fn assert_clear(name: &str, arrival: &Arrival) {
    let values = |wanted: &str| {
        let fields = arrival.headers.iter().filter(|(name, _)| name == wanted);
        let values: Vec<_> = fields.map(|(_, value)| value.clone()).collect();
        values
    };
    assert_eq!(values("transfer-encoding"), [""; 0], "{name}");
    if arrival.method == "POST" {
        assert_eq!(arrival.target, "/v1/chat/completions", "{name}");
        assert_eq!(values("content-length"), [BODY.len().to_string()], "{name}");
        assert_eq!(arrival.body_bytes, BODY.len(), "{name}");
    } else {
        assert_eq!(arrival.target, "/v1/x", "{name}");
        assert_eq!(arrival.body_bytes, 0, "{name}");
    }
    let odd = |(name, _): &&(String, String)| {
        name.contains('_') || ["upgrade", "connection", "te", "trailer"].contains(&&**name)
    };
    assert!(!arrival.headers.iter().any(|field| odd(&field)), "{name}");
}

/// What arrived since `seen` arrivals, without what stood behind a row.
fn arrived(simulator: &Simulator, seen: usize) -> Vec<Arrival> {
    let arrivals = simulator.arrivals().split_off(seen);
    let is_row = |arrival: &Arrival| arrival.target != "/v1/smuggled";
    arrivals.into_iter().filter(is_row).collect()
}

#[tokio::test]
async fn a_doubtful_request_is_refused_or_reaches_the_upstream_as_one_that_is_clear() {
    let limits = "\n[limits]\nbody-idle-timeout = \"300ms\"\n";
    let (simulator, gateway) = pair(&[], limits).await;
    let rows = rows();
    assert!(rows.len() >= 140, "{}", rows.len());
    for (name, request, status) in rows {
        let seen = simulator.arrivals().len();
        let answer = beginning(&gateway, &request).await;
        let arrivals = arrived(&simulator, seen);
        if status == 200 {
            assert!(
                answer.starts_with("HTTP/1.1 200 OK\r\n"),
                "{name}: {answer}"
            );
            assert_eq!(arrivals.len(), 1, "{name}");
            assert_clear(name, &arrivals[0]);
        } else {
            assert!(refuses(&answer, status), "{name}: {answer}");
            assert!(arrivals.is_empty(), "{name} came through");
        }
    }
}

#[tokio::test]
async fn what_follows_a_doubtful_request_is_no_part_of_it() {
    let (simulator, gateway) = pair(&[], "").await;
    for (name, mut request, status) in rows() {
        let seen = simulator.arrivals().len();
        // Twice: what a body is waited for may swallow the first.
        request.extend(BEHIND.repeat(2).as_bytes());
        let answer = raw(&gateway, &request).await;
        if matches!(status, 200 | 408) {
            assert!(
                answer.starts_with("HTTP/1.1 200 OK\r\n"),
                "{name}: {answer}"
            );
            // What follows may be served, as a request of its own.
            let arrivals = arrived(&simulator, seen);
            assert_eq!(arrivals.len(), 1, "{name}");
            assert_clear(name, &arrivals[0]);
        } else {
            assert!(refuses(&answer, status), "{name}: {answer}");
            assert_eq!(simulator.arrivals().len(), seen, "{name} came through");
        }
    }
}

/// RFC 9112 §6.1: the connection ends behind a request with a coding and a length.
#[tokio::test]
async fn nothing_is_served_behind_a_body_that_says_in_two_ways_where_it_ends() {
    let (simulator, gateway) = pair(&[], "").await;
    for fields in [
        "content-length: 5\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 5",
    ] {
        let seen = simulator.arrivals().len();
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: \
             application/json\r\n{fields}\r\n\r\nd\r\n{BODY}\r\n0\r\n\r\n{BEHIND}"
        );
        let answer = raw(&gateway, request.as_bytes()).await;
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
        assert_eq!(simulator.arrivals().len(), seen + 1, "{fields}");
    }
}

#[tokio::test]
async fn what_can_be_read_in_one_way_only_is_taken() {
    let (simulator, gateway) = pair(&[], "").await;
    let mut arrived = 0;
    for (name, request, answers, requests) in corpus::ACCEPTED {
        let answer = raw(&gateway, &bytes(request)).await;
        let fine = answer.matches("HTTP/1.1 200 OK\r\n").count()
            + answer.matches("HTTP/1.0 200 OK\r\n").count();
        assert_eq!(fine, *answers, "{name}: {answer}");
        arrived += requests;
        assert_eq!(simulator.arrivals().len(), arrived, "{name}");
    }
}

/// Sends `first`, waits until it may have been read, and sends the rest.
async fn in_two_pieces(gateway: &Gateway, bytes: &[u8], at: usize) -> String {
    let mut stream = dial(gateway).await;
    stream.write_all(&bytes[..at]).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    // It may have been refused already.
    let _refused = stream.write_all(&bytes[at..]).await;
    let mut answer = String::new();
    let _reset = stream.read_to_string(&mut answer).await;
    answer
}

#[tokio::test]
async fn a_refusal_does_not_depend_on_how_the_bytes_arrive_nor_on_what_came_before() {
    let (simulator, gateway) = pair(&[], "").await;
    let good = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let bad = b"GET /v1/x HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n\
                content-length: 2\r\n\r\n";
    let both = [&good[..], bad].concat();
    for at in (1..both.len()).step_by(3) {
        let answer = in_two_pieces(&gateway, &both, at).await;
        let (first, second) = answer.split_once("ok\n").expect(&answer);
        assert!(first.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(second.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(second.contains("connection: close"), "{answer}");
    }
    assert!(simulator.arrivals().is_empty());
}
