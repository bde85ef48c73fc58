//! What outlives a reload or a process: the gap, the closing, the places in the queue.

use std::time::Duration;

use futures_util::future::{join, join_all};
use pacegate::simulator::Options;

use super::{Promise, SLACK, arrived, ask, burst, config, home, pair, recorder::Recorder, served};
use crate::support::gateway::Gateway;

/// How a process ends.
enum End {
    Killed,
    Terminated,
}

/// Ends `gateway` and starts another process in its place.
async fn restart(mut gateway: Gateway, end: End, config: &str) -> Gateway {
    match end {
        End::Killed => gateway.kill(),
        End::Terminated => assert_eq!(gateway.stop().await, Some(0)),
    }
    let home = gateway.home();
    drop(gateway);
    Gateway::start_in(home, config)
}

#[tokio::test]
async fn a_reload_changes_the_gate_that_is_there() {
    let old = "min-interval = \"200ms\"\nmax-queue = 100\nconcurrency = 2\norder = \"fair\"\n";
    let changes = [
        ("max-queue = 100", "max-queue = 101"),
        ("200ms", "201ms"),
        ("\"fair\"", "\"fifo\""),
        ("concurrency", "max-wait = \"239s\"\nconcurrency"),
    ];
    let changed = changes.map(async |(from, to)| {
        let options = Options {
            latency: Duration::from_millis(300),
            ..Options::default()
        };
        let (recorder, gateway) = pair(options, "", old).await;
        let more = async {
            arrived(&recorder, 2).await;
            gateway.reload(&config(&recorder, "", &old.replace(from, to)));
            gateway.logged("\"Config reloaded\"").await;
            served(&gateway, 10).await
        };
        join(served(&gateway, 10), more).await;
        let record = recorder.record();
        assert_eq!(record.len(), 20);
        let promise = Promise {
            min_interval: Duration::from_millis(200),
            concurrency: Some(2),
            ..Promise::default()
        };
        promise.assert_kept(&record);
    });
    join_all(changed).await;
}

async fn gap_across(end: End) {
    let recorder = Recorder::start(Options::default()).await;
    let config = config(&recorder, "", "min-interval = \"2s\"");
    let gateway = Gateway::start_in(home(&recorder), &config);
    ask(&gateway).await.assert_ok();
    let gateway = restart(gateway, end, &config).await;
    ask(&gateway).await.assert_ok();
    let record = recorder.record();
    assert_eq!(record.len(), 2);
    let promise = Promise {
        min_interval: Duration::from_secs(2),
        ..Promise::default()
    };
    promise.assert_kept(&record);
}

#[tokio::test]
async fn the_gap_outlives_a_process_that_is_killed() {
    gap_across(End::Killed).await;
}

#[tokio::test]
async fn the_gap_outlives_a_process_that_ends_in_good_order() {
    gap_across(End::Terminated).await;
}

async fn closed_across(end: End) {
    let recorder = Recorder::start(Options {
        faults: vec!["429:retry-after=5".parse().unwrap()],
        ..Options::default()
    })
    .await;
    let keys = "retry-on-429 = { max-retries = 0 }";
    let config = config(&recorder, keys, "min-interval = \"0s\"");
    let gateway = Gateway::start_in(home(&recorder), &config);
    assert_eq!(ask(&gateway).await.answer.unwrap().status, 429);
    let gateway = restart(gateway, end, &config).await;
    ask(&gateway).await.assert_ok();
    let record = recorder.record();
    let [refused, next] = &record[..] else {
        panic!("{record:?}")
    };
    let closed = next.at - refused.done.unwrap();
    let least = Duration::from_millis(4980).saturating_sub(refused.late);
    assert!(closed >= least, "{closed:?}");
}

#[tokio::test]
async fn what_a_429_said_outlives_a_process_that_is_killed() {
    closed_across(End::Killed).await;
}

#[tokio::test]
async fn what_a_429_said_outlives_a_process_that_ends_in_good_order() {
    closed_across(End::Terminated).await;
}

#[tokio::test]
async fn nobody_is_let_in_to_wait_for_longer_than_max_wait() {
    let max_wait = Duration::from_secs(3);
    let options = Options {
        latency: Duration::from_secs(1),
        ..Options::default()
    };
    let pacing = "min-interval = \"0s\"\nconcurrency = 1\nmax-wait = \"3s\"";
    let (recorder, gateway) = pair(options, "", pacing).await;
    // How long answers take is learnt from these.
    for _ in 0..2 {
        ask(&gateway).await.assert_ok();
    }
    let outcomes = burst(&gateway, 12).await;
    let (admitted, refused): (Vec<_>, Vec<_>) = outcomes
        .iter()
        .partition(|outcome| outcome.answer.as_ref().unwrap().status == 200);
    assert!(admitted.len() >= 3, "{} were admitted", admitted.len());
    assert_eq!(recorder.simulator().arrivals().len(), 2 + admitted.len());
    for outcome in admitted {
        let queued = outcome.queued();
        assert!(queued <= max_wait + SLACK, "{queued:?}");
    }
    assert!(!refused.is_empty());
    for outcome in refused {
        let answer = outcome.answer.as_ref().unwrap();
        assert_eq!(answer.status, 429);
        assert_eq!(answer.header("x-pacegate-error"), "would_wait_too_long");
        assert!(outcome.took < SLACK, "{:?}", outcome.took);
        // It would have waited for longer than that.
        let seconds: f64 = answer.header("retry-after").parse().unwrap();
        assert!(seconds >= max_wait.as_secs_f64(), "{seconds}");
    }
}
