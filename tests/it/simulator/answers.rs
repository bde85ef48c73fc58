//! What chats and other requests are answered.

use bytes::Bytes;
use http::Request;
use pacegate::simulator::{Options, ResponseKind};
use serde_json::{Value, json};

use super::{PLAIN, STREAMED, chat, idle, sha256_hex, start};
use crate::support::client::{get, send, whole};

#[tokio::test]
async fn streams_role_content_finish_usage_and_done() {
    let simulator = start(Options {
        chunks: 3,
        comment: Some("PROCESSING".to_owned()),
        ..Options::default()
    })
    .await;
    let answer = chat(&simulator, STREAMED).await.unwrap();
    assert_eq!(
        answer.header("content-type"),
        "text/event-stream; charset=utf-8"
    );

    let text = answer.text();
    assert_eq!(text.matches(": PROCESSING\n\n").count(), 3);
    let mut events: Vec<_> = text
        .split("\n\n")
        .filter_map(|event| event.strip_prefix("data: "))
        .collect();
    assert_eq!(events.pop(), Some("[DONE]"));
    let events: Vec<Value> = events
        .into_iter()
        .map(|event| serde_json::from_str(event).unwrap())
        .collect();
    assert!(events.iter().all(|event| event["model"] == "m"));
    assert_eq!(events.len(), 6);
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(events[1]["choices"][0]["delta"]["content"], "One ");
    assert_eq!(events[4]["choices"][0]["finish_reason"], "stop");
    assert_eq!(events[5]["usage"]["completion_tokens"], 3);
}

#[tokio::test]
async fn answers_plainly_when_no_stream_is_asked_for() {
    let simulator = start(Options::default()).await;
    let answer = chat(&simulator, PLAIN).await.unwrap().json();
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["choices"][0]["message"]["role"], "assistant");

    let models = get(&format!("{}/models", simulator.base_url()))
        .await
        .unwrap()
        .json();
    assert_eq!(models["data"][0]["id"], "sim-large");
}

#[tokio::test]
async fn sends_large_bodies_and_many_events_whose_hash_is_in_the_record() {
    let simulator = start(Options {
        chunks: 10_000,
        ..Options::default()
    })
    .await;
    let stream = chat(&simulator, STREAMED).await.unwrap();
    assert_eq!(stream.text().matches("data: ").count(), 10_004);

    let large = start(Options {
        response: ResponseKind::Blob(10_000_000),
        ..Options::default()
    })
    .await;
    let blob = chat(&large, PLAIN).await.unwrap();
    assert_eq!(blob.body.len(), 10_000_000);
    blob.json();

    for (simulator, answer) in [(simulator, stream), (large, blob)] {
        idle(&simulator).await;
        let arrival = simulator.arrivals().remove(0);
        assert_eq!(arrival.sent_sha256, Some(sha256_hex(&answer.body)));
        assert_eq!(arrival.sent_bytes, answer.body.len() as u64);
    }
}

#[tokio::test]
async fn echoes_a_chats_body_and_any_other_request() {
    let simulator = start(Options {
        response: ResponseKind::Echo,
        ..Options::default()
    })
    .await;
    let body = json!({ "model": "m", "filling": "x".repeat(1_000_000) }).to_string();
    assert_eq!(chat(&simulator, &body).await.unwrap().text(), body);

    let url = format!("{}/a%2Fb?c=d", simulator.base_url());
    let request = Request::patch(url)
        .header("x-mark", "1")
        .body(Bytes::from("body"))
        .unwrap();
    let echo = whole(send(request).await.unwrap()).await.unwrap().json();
    assert_eq!(echo["method"], "PATCH");
    assert_eq!(echo["target"], "/v1/a%2Fb?c=d");
    assert_eq!(echo["headers"][1], json!(["x-mark", "1"]));
    assert_eq!(echo["body_sha256"], sha256_hex(b"body"));
}

#[tokio::test]
async fn labels_compressed_bytes() {
    let simulator = start(Options {
        response: ResponseKind::Gzip,
        ..Options::default()
    })
    .await;
    let answer = chat(&simulator, PLAIN).await.unwrap();
    assert_eq!(answer.header("content-encoding"), "gzip");
    assert!(answer.body.starts_with(&[0x1f, 0x8b]));
}
