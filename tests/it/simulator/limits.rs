//! Limits, and the words of a refusal.

use std::time::Duration;

use http::StatusCode;
use pacegate::simulator::{ChatLimits, Options, Wording};
use serde_json::json;
use tokio::time;

use super::{PLAIN, chat, start};

#[tokio::test]
async fn admits_n_of_n_plus_one_and_names_the_wait() {
    let simulator = start(Options {
        limits: ChatLimits {
            windows: vec!["3/3s".parse().unwrap()],
            concurrency: None,
        },
        ..Options::default()
    })
    .await;
    for _ in 0..3 {
        assert_eq!(
            chat(&simulator, PLAIN).await.unwrap().status,
            StatusCode::OK
        );
    }
    let refused = chat(&simulator, PLAIN).await.unwrap();
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    let wait: u64 = refused.header("retry-after-ms").parse().unwrap();
    assert!((1..=3000).contains(&wait));
    let seconds = wait.div_ceil(1000).to_string();
    assert_eq!(refused.header("retry-after"), seconds);
    assert_eq!(refused.json()["error"]["code"], "rate_limit_exceeded");

    time::sleep(Duration::from_millis(wait + 5)).await;
    assert_eq!(
        chat(&simulator, PLAIN).await.unwrap().status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn refuses_in_the_providers_own_words() {
    for (wording, window, status, message) in [
        (
            Wording::CodingPlan,
            "1/5h",
            429,
            "hour allocated quota exceeded",
        ),
        (
            Wording::Dashscope,
            "1/1s",
            429,
            "Request rate increased too quickly",
        ),
        (
            Wording::Dashscope,
            "1/1day",
            429,
            "Free allocated quota exceeded",
        ),
        (Wording::Local, "1/1m", 429, "Server is busy"),
        (
            Wording::OpenRouter,
            "1/1day",
            429,
            "Rate limit exceeded: free-models-per-day",
        ),
        (
            Wording::QwenOauth,
            "1/1m",
            429,
            "Requests rate limit exceeded",
        ),
    ] {
        let simulator = start(Options {
            limits: ChatLimits {
                windows: vec![window.parse().unwrap()],
                concurrency: None,
            },
            wording,
            ..Options::default()
        })
        .await;
        chat(&simulator, PLAIN).await.unwrap();
        let refused = chat(&simulator, PLAIN).await.unwrap();
        assert_eq!(
            (refused.status.as_u16(), &refused.json()["error"]["message"]),
            (status, &json!(message))
        );
        assert!(!refused.headers.contains_key("retry-after"), "{wording:?}");
    }
}
