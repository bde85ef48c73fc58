//! When requests leave, as the upstream saw it. Real time: these are the slow tests.

use std::time::Duration;

use futures_util::future::join_all;
use pacegate::simulator::{ChatLimits, Options, Simulator};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::{assert_ok, chats, eventually, gaps_ms, models, plain, simulator};
use crate::support::{
    client::{Answer, post_json},
    gateway::{Gateway, upstream},
    lateness::Lateness,
};

/// The answers to a burst, and how long it took to send it.
struct Burst {
    answers: Vec<Answer>,
    sending: Duration,
}

/// Sends `count` requests, named by their order, and waits for all of them. Each is in the queue or
/// has left it when the next one comes.
async fn burst(gateway: &Gateway, count: u64) -> Burst {
    let start = Instant::now();
    let tasks = TaskTracker::new();
    let mut asking = Vec::new();
    for number in 0..count {
        let url = gateway.url("/v1/chat/completions");
        asking.push(tasks.spawn(async move {
            let body = plain(number.to_string());
            post_json(&url, body, &[]).await.unwrap()
        }));
        eventually("it does not come", async || {
            let metrics = gateway.metrics().await;
            let came = ["pacegate_queue_waiting", "pacegate_dispatches_total"];
            came.iter().map(|name| metrics.sum(name)).sum::<u64>() > number
        })
        .await;
    }
    let sending = start.elapsed();
    let answers = join_all(asking).await;
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    answers.iter().for_each(assert_ok);
    Burst { answers, sending }
}

#[track_caller]
fn assert_in_order(simulator: &Simulator, count: u64) {
    let expected: Vec<_> = (0..count).map(|number| number.to_string()).collect();
    assert_eq!(models(&chats(simulator)), expected);
}

#[tokio::test]
async fn five_at_once_leave_one_and_a_half_to_two_and_a_half_seconds_apart_by_default() {
    let lateness = Lateness::watch();
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
    let Burst { answers, sending } = burst(&gateway, 5).await;
    let queued = |index: usize| {
        let answer: &Answer = &answers[index];
        let millis = answer.header("x-pacegate-queued-ms").parse();
        Duration::from_millis(millis.unwrap())
    };
    let longest = Duration::from_millis(2520);
    lateness.assert_within("the first's wait", queued(0), Duration::from_millis(20));
    lateness.assert_within("the second's wait", queued(1), longest);
    assert!(queued(1) + sending >= Duration::from_millis(1450));
    assert_in_order(&simulator, 5);
    let gaps = gaps_ms(&simulator.arrivals());
    // What is seen late has a shorter gap behind it.
    let shortest = 1480.0 - lateness.most().as_secs_f64() * 1000.0;
    for gap in gaps {
        assert!(gap >= shortest, "{gap} ms of {shortest}");
        let gap = Duration::from_secs_f64(gap / 1000.0);
        lateness.assert_within("a gap", gap, longest);
    }
}

#[tokio::test]
async fn twenty_at_once_meet_no_limit_of_one_a_second_and_keep_their_order() {
    let lateness = Lateness::watch();
    let simulator = simulator(Options {
        limits: ChatLimits {
            windows: vec!["1/1s".parse().unwrap()],
            concurrency: None,
        },
        ..Options::default()
    })
    .await;
    // The jitter makes up for what the network adds to one request and not to the next.
    let pacing = "[upstream.jitter-throttle]\nmin-interval = \"1s\"\njitter = \"150ms..250ms\"";
    let gateway = Gateway::start(&upstream(&simulator.base_url(), pacing));
    let answers = burst(&gateway, 20).await.answers;
    let refused = |it: &&Answer| it.header("x-pacegate-attempts") != "1";
    let refused = answers.iter().filter(refused).count();
    let margin = Duration::from_millis(70);
    if refused > 0 && lateness.excuses("a limit of one a second", margin) {
        return;
    }
    assert_eq!(refused, 0);
    assert_in_order(&simulator, 20);
}

#[tokio::test]
async fn nobody_leaves_before_the_instant_that_a_429_names() {
    let faults = ["429:retry-after=3", "429:retry-after=3"];
    let pacing = "[upstream.jitter-throttle]\nmin-interval = \"100ms\"\njitter = \"0s..10ms\"";
    let (simulator, gateway) = super::pair(&faults, pacing).await;
    let lateness = Lateness::watch();
    burst(&gateway, 20).await;

    let arrivals = chats(&simulator);
    let (refused, served): (Vec<_>, Vec<_>) = arrivals
        .iter()
        .partition(|arrival| arrival.status == Some(429));
    assert_eq!((refused.len(), served.len()), (2, 20));
    // The refusal may have been on its way for a while when its end was written down.
    let skew = Duration::from_millis(20) + lateness.most();
    let closed_for = Duration::from_secs(3).saturating_sub(skew);
    for refusal in refused {
        let start = refusal.done_us.unwrap();
        let closed = start + 1..start + closed_for.as_micros() as u64;
        assert!(
            arrivals
                .iter()
                .all(|arrival| !closed.contains(&arrival.at_us))
        );
    }
    // A request that was refused keeps its place at the front.
    let expected: Vec<_> = (0..20).map(|number| number.to_string()).collect();
    let served: Vec<_> = served
        .iter()
        .map(|it| it.model.as_deref().unwrap())
        .collect();
    assert_eq!(served, expected);
}
