//! Every kind of fault, as it looks on the wire.

use http::{Request, StatusCode};
use http_body_util::BodyExt;
use pacegate::simulator::{FaultRule, ResponseEnd};
use serde_json::Value;

use super::{PLAIN, STREAMED, chat, chat_with, idle};
use crate::support::client::send;

#[tokio::test]
async fn says_when_to_come_back_in_every_form() {
    for (fault, header, value) in [
        ("429:retry-after=3", "retry-after", "3"),
        ("429:retry-after=1.5", "retry-after", "1.5"),
        ("429:retry-after=soon", "retry-after", "soon"),
        ("429:retry-after-ms=1500", "retry-after-ms", "1500"),
        (
            "429:reset-requests=6m0s",
            "x-ratelimit-reset-requests",
            "6m0s",
        ),
        (
            "429:reset-requests=6m0s",
            "x-ratelimit-remaining-requests",
            "0",
        ),
        ("503:retry-after=2", "retry-after", "2"),
        (
            "302:location=http://127.0.0.1:1/",
            "location",
            "http://127.0.0.1:1/",
        ),
    ] {
        let (_simulator, answer) = chat_with(fault, PLAIN).await;
        let answer = answer.unwrap();
        assert_eq!(answer.status.as_str(), &fault[..3]);
        assert_eq!(answer.header(header), value, "{fault}");
    }
    for fault in ["429:date=3", "429:date-rfc850=3", "429:date-asctime=3"] {
        let (_simulator, answer) = chat_with(fault, PLAIN).await;
        let answer = answer.unwrap();
        let [at, now] = ["retry-after", "date"]
            .map(|name| httpdate::parse_http_date(answer.header(name)).expect(fault));
        let wait = at.duration_since(now).unwrap().as_secs();
        assert!((3..=4).contains(&wait), "{fault}: {wait}");
    }
    let (_simulator, answer) = chat_with("429:message=41.7", PLAIN).await;
    assert!(answer.unwrap().text().contains("Please try again in 41.7s"));
    for fault in ["429", "401", "403", "500", "503"] {
        let (_simulator, answer) = chat_with(fault, PLAIN).await;
        let answer = answer.unwrap();
        assert_eq!(answer.status.as_str(), fault);
        assert_eq!(answer.header("retry-after"), "");
        assert!(answer.json()["error"]["message"].is_string());
    }
}

#[tokio::test]
async fn resets_the_connection_before_the_head_and_in_the_stream() {
    for fault in ["reset", "reset@2"] {
        let (simulator, answer) = chat_with(fault, STREAMED).await;
        let error = format!("{:?}", answer.unwrap_err());
        assert!(error.contains("ConnectionReset"), "{fault}: {error}");
        idle(&simulator).await;
        assert_eq!(simulator.arrivals()[0].outcome, Some(ResponseEnd::Aborted));
    }
}

#[tokio::test]
async fn truncates_without_a_final_chunk_after_what_was_sent() {
    let (simulator, _) = chat_with("2/truncate@3", STREAMED).await;
    let url = format!("{}/chat/completions", simulator.base_url());
    let mut body = send(Request::post(url).body(STREAMED.into()).unwrap())
        .await
        .unwrap();
    let mut text = Vec::new();
    let error = loop {
        match body.frame().await.expect("the stream must not end cleanly") {
            Ok(frame) => text.extend_from_slice(&frame.into_data().unwrap()),
            Err(error) => break error,
        }
    };
    assert!(format!("{error:?}").contains("UnexpectedEof"), "{error:?}");
    assert_eq!(
        String::from_utf8(text).unwrap().matches("data: ").count(),
        3
    );
}

#[tokio::test]
async fn ends_early_but_cleanly() {
    let (_simulator, answer) = chat_with("end@2", STREAMED).await;
    let answer = answer.unwrap();
    assert_eq!(answer.text().matches("data: ").count(), 2);
    assert!(!answer.text().contains("[DONE]"));
}

#[tokio::test]
async fn puts_an_error_into_a_stream_that_began_well() {
    let (simulator, answer) = chat_with("error@1", STREAMED).await;
    let answer = answer.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    let last = answer.text().trim_end().rsplit("data: ").next().unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(last).unwrap()["error"]["code"],
        "rate_limit_exceeded"
    );

    simulator.push_fault("every/429".parse::<FaultRule>().unwrap());
    assert_eq!(
        chat(&simulator, PLAIN).await.unwrap().status,
        StatusCode::TOO_MANY_REQUESTS
    );
}
