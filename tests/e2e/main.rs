//! End to end: the real OpenCode through the real program to a simulated upstream over TLS; and the
//! vendor's own program beside it; the image as a container; a web page in a browser; other clients
//! as they come.
//!
//! The simulator's record is the oracle: what counts is what the *upstream* saw, and when.

// Always so here; it tells clippy that helpers of tests may unwrap as tests do.
#![cfg(test)]

use std::env::consts;

use pacegate::{
    config::Platform,
    simulator::{Arrival, ResponseEnd},
};

mod browser;
mod clients;
mod container;
mod gateway;
#[expect(dead_code, reason = "the integration tests need more of it")]
#[path = "../it/support/lateness.rs"]
mod lateness;
mod opencode;
mod program;
mod vendor_cli;

use gateway::Rig;
use lateness::Lateness;
use opencode::ask;

/// What the simulator says when nothing goes wrong.
const ANSWER: &str = "One word after another, at the right moment.";

/// The shortest gap that the preset allows, its minimum interval and its least jitter, in
/// microseconds; less 20 ms for the way from the gate to the upstream's clock.
const LEAST_GAP_US: u64 = 1_500_000 - 20_000;

/// The head of a chat request as the vendor's own client sends it from Linux on x64.
const CAPTURED: &str = include_str!("../it/captures/chat-qwen-code-0.10.4.head");

#[tokio::test]
async fn aligns_and_spaces_what_opencode_sends_at_once() {
    let lateness = Lateness::watch();
    let rig = Rig::start(&[]).await;
    let run = ask(&rig.base_url(), rig.home.path()).await;
    assert!(run.answer.contains(ANSWER), "{}", run.output);

    let chats = rig.chats();
    assert_eq!(chats.len(), 2, "title and main request: {chats:#?}");
    assert_spaced(&chats, &lateness);
    for chat in &chats {
        assert_eq!(chat.version, "HTTP/1.1");
        assert_eq!(chat.model.as_deref(), Some("coder-model"));
        assert_eq!(chat.stream, Some(true));
        assert_eq!(chat.outcome, Some(ResponseEnd::Completed));
        // Equal to the last field, so there is no room for a session's id, an `opencode/…`, or an
        // Authorization of the client's.
        assert_eq!(chat.headers, expected_headers(&rig, chat));
    }
    rig.stop().await;
}

#[tokio::test]
async fn waits_out_a_429_so_that_opencode_never_sees_it() {
    let lateness = Lateness::watch();
    let rig = Rig::start(&["1/429:retry-after=2"]).await;
    let run = ask(&rig.base_url(), rig.home.path()).await;
    assert!(run.answer.contains(ANSWER), "{}", run.output);

    let chats = rig.chats();
    let statuses: Vec<_> = chats.iter().filter_map(|chat| chat.status).collect();
    assert_eq!(statuses, [429, 200, 200]);
    assert_spaced(&chats, &lateness);
    let paused = chats[1].at_us - chats[0].at_us;
    assert!(paused >= 2_000_000, "nobody leaves inside the two seconds");
    assert_eq!(rig.answers(), 2, "OpenCode asked once for each call");
    rig.stop().await;
}

#[tokio::test]
async fn makes_opencode_ask_again_a_few_times_when_streams_are_cut() {
    // Which of the first two is the main request is chance. A clean end instead of an abort made
    // OpenCode ask again without limit, 64 times in 25 s.
    let rig = Rig::start(&["1/truncate@4", "2/truncate@4"]).await;
    let run = ask(&rig.base_url(), rig.home.path()).await;
    assert!(run.answer.contains(ANSWER), "{}", run.output);

    let chats = rig.chats();
    let cut = |chat: &&Arrival| chat.outcome == Some(ResponseEnd::Aborted);
    assert_eq!(chats.iter().filter(cut).count(), 2);
    assert!((3..=10).contains(&chats.len()), "{}", chats.len());
    assert_eq!(
        usize::try_from(rig.answers()),
        Ok(chats.len()),
        "nothing is sent again once its head has gone to the client"
    );
    rig.stop().await;
}

#[tokio::test]
async fn says_once_that_the_days_quota_is_used_up_and_opencode_takes_it_for_final() {
    let rig = Rig::start(&["every/403:reason=day"]).await;
    let run = ask(&rig.base_url(), rig.home.path()).await;
    assert!(run.output.contains("is used up"), "{}", run.output);
    assert_eq!(rig.chats().len(), 1, "the other one was not sent at all");
    assert_eq!(rig.answers(), 2, "title and main request, once each");
    rig.stop().await;
}

#[tokio::test]
async fn says_once_that_there_is_no_money_left_and_opencode_asks_no_more() {
    // A 429 by its status; for as long as it came as one, OpenCode asked six times.
    let keys = "dialect = \"openai\"";
    let rig = Rig::start_with(&["every/429:reason=month"], keys, "").await;
    let run = ask(&rig.base_url(), rig.home.path()).await;
    assert!(run.output.contains("is used up"), "{}", run.output);
    assert_eq!(rig.chats().len(), 2, "title and main request, once each");
    assert_eq!(rig.answers(), 2);
    rig.stop().await;
}

#[tokio::test]
async fn holds_opencode_past_the_silent_limit_and_gives_it_the_answer() {
    // Title and main request come at once; one of them waits for the other's gap.
    let tables = r#"
[upstream.retry-on-429]
max-hold = "2s"
[upstream.jitter-throttle]
min-interval = "8s"
jitter = "0s..0s"
"#;
    let rig = Rig::start_with(&[], "", tables).await;
    let run = ask(&rig.base_url(), rig.home.path()).await;
    assert!(run.answer.contains(ANSWER), "{}", run.output);
    let chats = rig.chats();
    assert_eq!(chats.len(), 2);
    // The first had to make its connection, the second had not.
    assert!(chats[1].at_us - chats[0].at_us >= 6_000_000);
    assert_eq!(rig.answers(), 2, "OpenCode did not give up on the wait");
    rig.stop().await;
}

#[tokio::test]
async fn is_obeyed_by_opencode_when_it_says_how_long_the_queue_is() {
    let tables = r#"
[upstream.jitter-throttle]
min-interval = "12s"
jitter = "0s..0s"
max-wait = "3s"
"#;
    let rig = Rig::start_with(&[], "", tables).await;
    let run = ask(&rig.base_url(), rig.home.path()).await;
    assert!(run.answer.contains(ANSWER), "{}", run.output);
    let chats = rig.chats();
    assert_eq!(chats.len(), 2);
    assert!(chats[1].at_us - chats[0].at_us >= 10_000_000);
    assert_eq!(
        rig.answers(),
        3,
        "refused once, and not asked again too soon"
    );
    rig.stop().await;
}

fn assert_spaced(chats: &[Arrival], lateness: &Lateness) {
    // One that was seen late has a shorter gap behind it.
    let late = u64::try_from(lateness.most().as_micros()).unwrap();
    for pair in chats.windows(2) {
        let gap = pair[1].at_us - pair[0].at_us;
        assert!(gap + late >= LEAST_GAP_US, "{gap} µs, {late} µs late");
    }
}

/// The captured head, from this machine and about this request.
fn expected_headers(rig: &Rig, chat: &Arrival) -> Vec<(String, String)> {
    let host = format!("localhost:{}", rig.simulator.address().port());
    let [linux, here] = [
        Platform::of("linux", "x86_64"),
        Platform::of(consts::OS, consts::ARCH),
    ];
    CAPTURED
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(": "))
        .map(|(name, captured)| {
            let name = name.to_lowercase();
            let value = match name.as_str() {
                "authorization" => format!("Bearer {}", rig.token),
                "content-length" => chat.body_bytes.to_string(),
                "host" => host.clone(),
                _ => captured
                    .replace(linux.os, here.os)
                    .replace(linux.stainless_os, here.stainless_os)
                    .replace(linux.arch, here.arch),
            };
            (name, value)
        })
        .collect()
}
