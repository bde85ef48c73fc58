//! Dialects at work: the real program in front of a simulator that uses a provider's words.

use std::time::Duration;

use pacegate::{
    api::RETRY_WORDS,
    simulator::{Arrival, ChatLimits, Options, ResponseEnd, Simulator, Wording},
};
use tokio::task::JoinSet;

use crate::support::{
    client::{Answer, post_json},
    gateway::{Gateway, upstream},
};

const PLAIN: &str = r#"{"model":"m","messages":[]}"#;
const STREAMED: &str = r#"{"model":"m","messages":[],"stream":true}"#;

/// An upstream that speaks like `wording`, and a gateway that knows `dialect`.
async fn pair(wording: Wording, dialect: &str, faults: &[&str]) -> (Simulator, Gateway) {
    let simulator = Simulator::start(Options {
        wording,
        faults: faults.iter().map(|fault| fault.parse().unwrap()).collect(),
        ..Options::default()
    })
    .await
    .unwrap();
    let gateway = gateway(&simulator, dialect);
    (simulator, gateway)
}

fn gateway(simulator: &Simulator, dialect: &str) -> Gateway {
    // Nobody waits for a reset, however near it is when the test runs.
    let more = format!(
        "dialect = \"{dialect}\"\n\
         [upstream.retry-on-429]\n\
         default-wait = \"1s\"\n\
         [upstream.jitter-throttle]\n\
         max-wait = \"10s\"\n\
         quotas = [{{ requests = 90000, per = \"month\", anchor-day = 1 }}]\n"
    );
    let state = "state-dir = \"state\"\n";
    Gateway::start(&(state.to_owned() + &upstream(&simulator.base_url(), &more)))
}

/// Checks that `answer` says once and for all that the quota is used up.
#[track_caller]
fn assert_used_up(answer: &Answer) {
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert_eq!(answer.header("x-pacegate-error"), "quota_exhausted");
    assert_eq!(answer.header("retry-after"), "");
    assert_eq!(answer.json()["error"]["code"], "quota_exhausted");
    let text = answer.text().to_lowercase();
    for retried in RETRY_WORDS {
        assert!(!text.contains(retried), "{retried}: {text}");
    }
    for theirs in ["allocated", "free-models", "plan and billing details"] {
        assert!(!text.contains(theirs), "{theirs}: {text}");
    }
}

fn names_a_weekday(answer: &Answer) -> bool {
    ["Mon", "Tues", "Wednes", "Thurs", "Fri", "Satur", "Sun"]
        .into_iter()
        .any(|day| answer.text().contains(&format!(" by {day}day, ")))
}

/// Between the arrivals of the first two.
fn gap(arrivals: &[Arrival]) -> Duration {
    Duration::from_micros(arrivals[1].at_us - arrivals[0].at_us)
}

#[tokio::test]
async fn a_throttle_that_is_called_a_quota_is_waited_out() {
    let (simulator, gateway) = pair(Wording::Dashscope, "dashscope", &["429:reason=tokens"]).await;
    let answer = gateway.chat(PLAIN).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("x-pacegate-attempts"), "2");
    let arrivals = simulator.arrivals();
    assert_eq!(arrivals.len(), 2);
    assert!(gap(&arrivals) >= Duration::from_millis(980));
}

#[tokio::test]
async fn a_quota_without_a_known_reset_is_asked_for_once_by_each_request() {
    for (wording, dialect) in [
        (Wording::Dashscope, "dashscope"),
        (Wording::OpenAi, "openai"),
    ] {
        let faults = ["every/429:reason=day"];
        let (simulator, gateway) = pair(wording, dialect, &faults).await;
        for asked in 1..=2 {
            let answer = gateway.chat(PLAIN).await.unwrap();
            assert_used_up(&answer);
            assert!(answer.text().contains("does not say until when"));
            assert_eq!(simulator.arrivals().len(), asked, "{dialect}");
        }
    }
}

#[tokio::test]
async fn a_quota_with_a_reset_closes_the_gate_until_then() {
    for (wording, dialect, fault) in [
        (Wording::CodingPlan, "coding-plan", "429:reason=hours"),
        (Wording::CodingPlan, "coding-plan", "429:reason=week"),
        (Wording::CodingPlan, "coding-plan", "429:reason=month"),
        (Wording::OpenRouter, "openrouter", "429:reason=day"),
        (Wording::QwenOauth, "qwen-oauth", "403:reason=day"),
    ] {
        let (simulator, gateway) = pair(wording, dialect, &[fault]).await;
        for _ in 0..2 {
            let answer = gateway.chat(PLAIN).await.unwrap();
            assert_used_up(&answer);
            assert!(names_a_weekday(&answer), "{}", answer.text());
        }
        assert_eq!(simulator.arrivals().len(), 1, "{dialect} {fault}");
    }
}

#[tokio::test]
async fn too_many_at_once_are_retried_with_fewer() {
    let simulator = Simulator::start(Options {
        wording: Wording::CodingPlan,
        limits: ChatLimits {
            concurrency: Some(2),
            ..ChatLimits::default()
        },
        // Long enough for four to be there together.
        latency: Duration::from_millis(800),
        ..Options::default()
    })
    .await
    .unwrap();
    // Four at once, as the preset has it.
    let gateway = gateway(&simulator, "coding-plan");
    let mut chats = JoinSet::new();
    for _ in 0..8 {
        let url = gateway.url("/v1/chat/completions");
        chats.spawn(async move { post_json(&url, PLAIN, &[]).await.unwrap() });
    }
    while let Some(answer) = chats.join_next().await {
        let answer = answer.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let statuses: Vec<_> = simulator
        .arrivals()
        .iter()
        .map(|arrival| arrival.status)
        .collect();
    // Of the first four, before anybody knew.
    let refused = |status: &&Option<u16>| **status == Some(429);
    let first = statuses.iter().take(4).filter(refused).count();
    let all = statuses.iter().filter(refused).count();
    assert!((1..=2).contains(&first) && all == first, "{statuses:?}");
}

#[tokio::test]
async fn an_error_before_any_content_is_retried_and_not_seen() {
    for (wording, dialect) in [
        (Wording::Dashscope, "dashscope"),
        (Wording::OpenAi, "openai"),
        (Wording::OpenRouter, "openrouter"),
        (Wording::QwenOauth, "qwen-oauth"),
    ] {
        let (simulator, gateway) = pair(wording, dialect, &["error@0"]).await;
        let answer = gateway.chat(STREAMED).await.unwrap();
        let arrivals = simulator.arrivals();
        assert_eq!(arrivals.len(), 2, "{dialect}");
        assert_eq!(answer.status, 200);
        assert!(answer.text().ends_with("data: [DONE]\n\n"), "{dialect}");
        assert!(!answer.text().contains("error"), "{dialect}");
        assert_eq!(arrivals[1].outcome, Some(ResponseEnd::Completed));
    }
}

#[tokio::test]
async fn an_error_before_any_content_that_lasts_too_long_is_a_429() {
    let (simulator, gateway) = pair(Wording::CodingPlan, "coding-plan", &["error@0"]).await;
    let answer = gateway.chat(STREAMED).await.unwrap();
    assert_eq!(answer.status, 429);
    let seconds: u64 = answer.header("retry-after").parse().unwrap();
    assert!((300..=331).contains(&seconds), "{seconds}");
    assert_eq!(simulator.arrivals().len(), 1);
}

#[tokio::test]
async fn an_error_after_content_passes_as_it_is() {
    for (wording, dialect) in [
        (Wording::Dashscope, "dashscope"),
        (Wording::OpenAi, "openai"),
    ] {
        let (simulator, gateway) = pair(wording, dialect, &["error@3"]).await;
        let answer = gateway.chat(STREAMED).await.unwrap();
        assert_eq!(answer.status, 200);
        assert!(answer.text().contains("\"error\""), "{dialect}");
        assert_eq!(simulator.arrivals().len(), 1, "{dialect}");
    }
}
