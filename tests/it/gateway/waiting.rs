//! The queue: who is refused, and what becomes of a place whose request leaves.

use std::time::Duration;

use tokio::{io::AsyncWriteExt, time::Instant};

use super::{
    assert_marked, assert_ok, assert_refused, chats, dial, eventually, models, pair, plain, queued,
    request, streamed,
};
use crate::support::{client::Answer, gateway::Gateway, lateness::Lateness};

/// One that leaves, and then nobody for a long time, counted from the moment that is returned.
async fn waits_behind_one(more: &str) -> (pacegate::simulator::Simulator, Gateway, Instant) {
    let pacing =
        format!("[upstream.jitter-throttle]\nmin-interval = \"30s\"\njitter = \"0s..0s\"\n{more}");
    let (simulator, gateway) = pair(&[], &pacing).await;
    let before = Instant::now();
    assert_ok(&gateway.chat(plain("first")).await.unwrap());
    (simulator, gateway, before)
}

/// Checks that it names what is left of `gaps`, the first of which began after `before`.
#[track_caller]
fn assert_left(refused: &Answer, gaps: u64, before: Instant) {
    let seconds: u64 = refused.header("retry-after").parse().unwrap();
    let (all, passed) = (gaps * 30, before.elapsed().as_secs() + 1);
    assert!(
        (all.saturating_sub(passed)..=all).contains(&seconds),
        "{seconds}"
    );
}

#[tokio::test]
async fn a_full_queue_refuses_with_its_own_estimate() {
    let (simulator, gateway, before) = waits_behind_one("max-queue = 1").await;
    let mut waiting = dial(&gateway).await;
    let chat = request(
        "POST /v1/chat/completions",
        "content-type: application/json\r\n",
        &plain("waits"),
    );
    waiting.write_all(&chat).await.unwrap();
    queued(&gateway, 1).await;

    let refused = gateway.chat(plain("refused")).await.unwrap();
    assert_refused(&refused, 429, "queue_full");
    // One gap for the one that waits, another for this.
    assert_left(&refused, 2, before);
    assert_eq!(refused.header("x-pacegate-attempts"), "0");
    assert_eq!(models(&chats(&simulator)), ["first"]);
}

#[tokio::test]
async fn a_wait_that_would_be_too_long_is_not_begun() {
    let (simulator, gateway, before) = waits_behind_one("max-wait = \"10s\"").await;
    let refused = gateway.chat(plain("refused")).await.unwrap();
    assert_refused(&refused, 429, "would_wait_too_long");
    assert_left(&refused, 1, before);
    assert_eq!(models(&chats(&simulator)), ["first"]);
}

#[tokio::test]
async fn the_place_of_a_client_that_left_the_queue_goes_to_the_next() {
    // Long enough for two to come and leave.
    const GAP: Duration = Duration::from_secs(4);
    let pacing = "[upstream.jitter-throttle]\nmin-interval = \"4s\"\njitter = \"0s..0s\"";
    let (simulator, gateway) = pair(&[], pacing).await;
    assert_ok(&gateway.chat(plain("first")).await.unwrap());
    let lateness = Lateness::watch();
    let left = Instant::now();
    for reset in [true, false] {
        let mut leaving = dial(&gateway).await;
        let chat = request(
            "POST /v1/chat/completions",
            "content-type: application/json\r\n",
            &plain("leaves"),
        );
        leaving.write_all(&chat).await.unwrap();
        queued(&gateway, 1).await;
        if reset {
            leaving.set_zero_linger().unwrap();
        }
        drop(leaving);
        queued(&gateway, 0).await;
    }
    let next = gateway.chat(plain("next")).await.unwrap();
    assert_ok(&next);
    // With either of the places kept it would be two gaps or three.
    lateness.assert_within("the next one's wait", left.elapsed(), GAP * 19 / 10);
    assert_eq!(models(&chats(&simulator)), ["first", "next"]);
}

#[tokio::test]
async fn a_429_goes_to_the_client_once_the_retries_are_spent() {
    let settings = "[upstream.retry-on-429]\nmax-retries = 0";
    let (simulator, gateway) = pair(&["429:retry-after=7"], settings).await;
    let answer = gateway.chat(plain("m")).await.unwrap();
    assert_eq!(answer.status, 429);
    assert_marked(&answer);
    assert_eq!(
        answer.header("x-pacegate-error"),
        "",
        "it is the upstream's own"
    );
    assert_eq!(answer.header("x-should-retry"), "false");
    let seconds: u64 = answer.header("retry-after").parse().unwrap();
    assert!((7..=8).contains(&seconds), "{seconds}");
    assert_eq!(simulator.arrivals().len(), 1);
}

#[tokio::test]
async fn a_slot_is_taken_until_the_answer_has_ended() {
    let pacing = "[upstream.jitter-throttle]\nconcurrency = 1";
    let (simulator, gateway) = pair(&["stall@2"], pacing).await;
    let mut first = dial(&gateway).await;
    let chat = request(
        "POST /v1/chat/completions",
        "content-type: application/json\r\n",
        &super::streamed("first"),
    );
    first.write_all(&chat).await.unwrap();
    eventually("the first does not leave", async || {
        chats(&simulator).len() == 1
    })
    .await;
    let (second, ()) = tokio::join!(gateway.chat(plain("second")), async {
        queued(&gateway, 1).await;
        assert_eq!(chats(&simulator).len(), 1);
        drop(first);
    });
    assert_ok(&second.unwrap());
}

#[tokio::test]
async fn a_stream_that_has_waited_passes_whatever_response_headers_are_listed() {
    let more = "response-headers = { pass = [\"x-ratelimit-*\"] }\n\
                retry-on-429 = { max-hold = \"100ms\" }\n\
                jitter-throttle = { min-interval = \"1s\", jitter = \"0s..0s\" }";
    let (simulator, gateway) = pair(&[], more).await;
    assert_ok(&gateway.chat(plain("first")).await.unwrap());
    let answer = gateway.chat(streamed("m")).await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "", "not listed");
    let text = answer.text();
    assert!(text.starts_with(": queued place=1"), "{text}");
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    assert_eq!(models(&chats(&simulator)), ["first", "m"]);
}
