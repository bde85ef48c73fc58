//! What HTTP allows and few clients do.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::sleep,
};

use super::{dial, pair, plain, raw, request, streamed};

const JSON: &str = "content-type: application/json\r\n";

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let (simulator, gateway) = pair(&[], "").await;
    let body = plain("m");
    let mut bytes = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n{JSON}content-length: {}\r\n\r\n\
         {body}GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend(request("DELETE /v1/files/1", "", ""));
    let answers = raw(&gateway, &bytes).await;
    let place = |text: &str| answers.find(text).expect(&answers);
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 3, "{answers}");
    assert!(place("chat.completion") < place("\r\n\r\nok\n"));
    assert!(place("\r\n\r\nok\n") < place("/v1/files/1"));
    assert_eq!(simulator.arrivals().len(), 2);
}

#[tokio::test]
async fn a_client_that_asks_before_it_sends_is_told_to_go_on() {
    let (_simulator, gateway) = pair(&[], "").await;
    let mut client = dial(&gateway).await;
    let chat = request(
        "POST /v1/chat/completions",
        &format!("{JSON}expect: 100-continue\r\n"),
        &plain("m"),
    );
    let (head, body) = chat.split_at(chat.len() - plain("m").len());
    client.write_all(head).await.unwrap();
    let mut interim = [0; 25];
    client.read_exact(&mut interim).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(body).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[tokio::test]
async fn a_client_that_asks_first_and_is_denied_sends_nothing() {
    let (_simulator, gateway) = pair(&[], "").await;
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\
                \r\ncontent-length: 9\r\nexpect: 100-continue\r\n\r\n";
    let answer = raw(&gateway, head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 415 "), "{answer}");
}

#[tokio::test]
async fn http_1_0_gets_a_stream_that_ends_with_the_connection() {
    let (_simulator, gateway) = pair(&[], "").await;
    let body = streamed("m");
    let chat = format!(
        "POST /v1/chat/completions HTTP/1.0\r\nhost: localhost\r\n{JSON}content-length: {}\r\n\r\n\
         {body}",
        body.len()
    );
    let answer = raw(&gateway, chat.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
    assert!(
        answer.ends_with("data: [DONE]\n\n") && !answer.contains("chunked"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_body_that_trickles_in_is_taken() {
    let (_simulator, gateway) = pair(&[], "").await;
    let mut client = dial(&gateway).await;
    let chat = request("POST /v1/chat/completions", JSON, &plain("m"));
    for byte in chat.chunks(7) {
        client.write_all(byte).await.unwrap();
        sleep(Duration::from_millis(5)).await;
    }
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[tokio::test]
async fn what_is_no_http_or_too_much_of_it_is_refused_and_the_rest_served() {
    let (simulator, gateway) = pair(&[], "").await;
    let fields: String = (0..200)
        .map(|number| format!("x-{number}: 1\r\n"))
        .collect();
    for (bytes, status) in [
        // hyper's own refusals, which have no code.
        (b"\x16\x03\x01\x00\x05hello\r\n\r\n".to_vec(), "400"),
        (request("GET /v1/x", "a: b\r\n c\r\n", ""), "400"),
        (request("GET /v1/x", "content-length: 5\r\n", ""), "400"),
        (request("GET /v1/x", &fields, ""), "431"),
    ] {
        let answer = raw(&gateway, &bytes).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
    }
    for (bytes, status) in [
        (
            request("GET /v1/x", &format!("x: {}\r\n", "a".repeat(33_000)), ""),
            "431",
        ),
        (
            request(&format!("GET /v1/{}", "a".repeat(9_000)), "", ""),
            "414",
        ),
        (
            request(&format!("GET /v1/{}", "a".repeat(20_000)), "", ""),
            "414",
        ),
    ] {
        let answer = raw(&gateway, &bytes).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert!(answer.contains("x-pacegate-error: "), "{answer}");
    }
    assert!(simulator.arrivals().is_empty());
    let large = format!("x-large: {}\r\n", "a".repeat(30_000));
    let answer = raw(&gateway, &request("GET /v1/x", &large, "")).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[tokio::test]
async fn a_body_that_is_framed_wrongly_or_breaks_off_reaches_nobody() {
    let (simulator, gateway) = pair(&[], "").await;
    for (framing, body) in [
        (
            "transfer-encoding: chunked",
            "zz\r\n{\"model\":\"m\"}\r\n0\r\n\r\n",
        ),
        ("transfer-encoding: chunked", "d\r\n{\"model\":\"m\"}\r\n"),
        ("content-length: 14", "{\"model\":\"m\"}"),
        (
            "content-length: 13\r\ncontent-length: 12",
            "{\"model\":\"m\"}",
        ),
    ] {
        let bytes = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n{JSON}{framing}\r\n\r\n{body}"
        );
        let mut client = dial(&gateway).await;
        client.write_all(bytes.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{framing}: {answer}");
    }
    assert!(simulator.arrivals().is_empty());
}
