//! When requests leave, as the upstream saw it. Real time: these are the slow tests.

use std::time::Duration;

use futures_util::future::join_all;
use pacegate::simulator::{Limits, Options, Simulator};
use tokio::time::sleep;

use super::{assert_ok, chats, gaps_ms, models, plain, simulator};
use crate::support::{
    client::Answer,
    gateway::{Gateway, upstream},
};

/// Sends `count` requests, named by their order, and waits for all of them. What lies between two
/// is little beside any pacing, and enough for the order to be known.
async fn burst(gateway: &Gateway, count: usize) -> Vec<Answer> {
    let asking = (0..count).map(|number| async move {
        sleep(Duration::from_millis(5) * number as u32).await;
        gateway.chat(plain(number.to_string())).await.unwrap()
    });
    join_all(asking).await
}

#[track_caller]
fn assert_in_order(simulator: &Simulator, count: usize) {
    let expected: Vec<_> = (0..count).map(|number| number.to_string()).collect();
    assert_eq!(models(&chats(simulator)), expected);
}

#[tokio::test]
async fn five_at_once_leave_one_and_a_half_to_two_and_a_half_seconds_apart_by_default() {
    let simulator = simulator(Options::default()).await;
    // The preset of the built-in default and its pacing, towards another place.
    let config = r#"
        [[upstream]]
        preset = "qwen-oauth"
        base-url = "BASE"
        pipeline = ["retry-on-429", "jitter-throttle", "header-align"]
        credentials = { kind = "none" }
    "#;
    let gateway = Gateway::start(&config.replace("BASE", &simulator.base_url()));
    let answers = burst(&gateway, 5).await;
    answers.iter().for_each(assert_ok);
    let queued = |index: usize| -> u64 {
        let answer: &Answer = &answers[index];
        answer.header("x-pacegate-queued-ms").parse().unwrap()
    };
    assert!(queued(0) < 20, "the first waited for {} ms", queued(0));
    assert!((1450..2520).contains(&queued(1)), "{}", queued(1));
    assert_in_order(&simulator, 5);
    let gaps = gaps_ms(&simulator.arrivals());
    assert!(
        gaps.iter().all(|gap| (1480.0..=2520.0).contains(gap)),
        "{gaps:?}"
    );
}

#[tokio::test]
async fn twenty_at_once_meet_no_limit_of_one_a_second_and_keep_their_order() {
    let simulator = simulator(Options {
        limits: Limits {
            windows: vec!["1/1s".parse().unwrap()],
            concurrency: None,
        },
        ..Options::default()
    })
    .await;
    // The jitter makes up for what the network adds to one request and not to the next.
    let pacing = "[upstream.jitter-throttle]\nmin-interval = \"1s\"\njitter = \"150ms..250ms\"";
    let gateway = Gateway::start(&upstream(&simulator.base_url(), pacing));
    let answers = burst(&gateway, 20).await;
    answers.iter().for_each(assert_ok);
    assert!(
        answers
            .iter()
            .all(|it| it.header("x-pacegate-attempts") == "1")
    );
    assert_in_order(&simulator, 20);
}

#[tokio::test]
async fn nobody_leaves_before_the_instant_that_a_429_names() {
    let faults = ["429:retry-after=3", "429:retry-after=3"];
    let pacing = "[upstream.jitter-throttle]\nmin-interval = \"100ms\"\njitter = \"0s..10ms\"";
    let (simulator, gateway) = super::pair(&faults, pacing).await;
    burst(&gateway, 20).await.iter().for_each(assert_ok);

    let arrivals = chats(&simulator);
    let (refused, served): (Vec<_>, Vec<_>) = arrivals
        .iter()
        .partition(|arrival| arrival.status == Some(429));
    assert_eq!((refused.len(), served.len()), (2, 20));
    for refusal in refused {
        let start = refusal.done_us.unwrap();
        let closed = start + 1..start + 2_980_000;
        assert!(
            arrivals
                .iter()
                .all(|arrival| !closed.contains(&arrival.at_us))
        );
    }
    // Whoever was refused keeps the first place.
    let expected: Vec<_> = (0..20).map(|number| number.to_string()).collect();
    let served: Vec<_> = served
        .iter()
        .map(|it| it.model.as_deref().unwrap())
        .collect();
    assert_eq!(served, expected);
}
