//! How requests may be written. What could be read in two ways is refused, and its connection
//! closed: whatever stands behind it might be a request that somebody else takes for a body.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{dial, pair, raw};
use crate::support::gateway::Gateway;

mod corpus;

/// What a smuggler would want to reach the upstream.
const BEHIND: &str = "GET /v1/smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n";

fn bytes(text: &str) -> Vec<u8> {
    text.replace('@', "\r\n").into_bytes()
}

/// Every case that must be refused: its name, its bytes, the status and the code.
fn refused() -> Vec<(&'static str, Vec<u8>, u16, &'static str)> {
    let heads = corpus::HEADS
        .iter()
        .map(|(name, head, status, code)| (*name, bytes(head), *status, *code));
    let lines = corpus::LINES.iter().map(|(name, line, status, code)| {
        let head = format!("{line}\r\nhost: localhost\r\n\r\n");
        (*name, head.into_bytes(), *status, *code)
    });
    let fields = corpus::FIELDS.iter().map(|(name, fields, body)| {
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1@host: localhost@content-type: \
             application/json@{fields}@@{body}"
        );
        (*name, bytes(&request), 400, "malformed_request")
    });
    heads.chain(lines).chain(fields).collect()
}

/// One answer in OpenAI's shape, and nothing behind it.
#[track_caller]
fn assert_refused(name: &str, answer: &str, status: u16, code: &str) {
    let answers = answer.matches("\r\nx-request-id: ").count();
    assert_eq!(answers, 1, "{name}: {answer}");
    let (head, body) = answer.split_once("\r\n\r\n").expect(name);
    assert!(
        head.starts_with(&format!("HTTP/1.1 {status} ")),
        "{name}: {head}"
    );
    for field in [
        &*format!("x-pacegate-error: {code}"),
        "connection: close",
        "x-request-id: ",
    ] {
        assert!(head.contains(field), "{name}: {head}");
    }
    let body: serde_json::Value = serde_json::from_str(body).expect(name);
    assert_eq!(body["error"]["code"], code, "{name}");
}

#[tokio::test]
async fn what_can_be_read_in_two_ways_is_refused_and_its_connection_closed() {
    let (simulator, gateway) = pair(&[], "").await;
    let cases = refused();
    assert!(cases.len() >= 80, "{}", cases.len());
    for (name, mut request, status, code) in cases {
        request.extend(BEHIND.as_bytes());
        let answer = raw(&gateway, &request).await;
        assert_refused(name, &answer, status, code);
        assert!(simulator.arrivals().is_empty(), "{name} came through");
    }
    assert!(gateway.chat(super::plain("m")).await.is_ok());
    assert_eq!(simulator.arrivals().len(), 1);
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
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_refusal_does_not_depend_on_how_the_bytes_arrive_nor_on_what_came_before() {
    let (simulator, gateway) = pair(&[], "").await;
    let good = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let bad = b"GET /v1/x HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n\
                transfer-encoding: chunked\r\n\r\n";
    let both = [&good[..], bad].concat();
    for at in (1..both.len()).step_by(3) {
        let answer = in_two_pieces(&gateway, &both, at).await;
        let (first, second) = answer.split_once("ok\n").expect(&answer);
        assert!(first.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert_refused("the second", second, 400, "malformed_request");
    }
    assert!(simulator.arrivals().is_empty());
}
