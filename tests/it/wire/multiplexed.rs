//! HTTP/2 upstreams that take few streams at once, or say late how many.

use std::time::Duration;

use pacegate::simulator::{ConnectionOptions, Options, TlsOptions};

use super::{Outcome, Promise, SLACK, pair, served};

const ANSWER: Duration = Duration::from_secs(1);

fn few(streams: u32, settings_delay: Duration, tls: bool) -> Options {
    Options {
        tls: tls.then(TlsOptions::default),
        connections: ConnectionOptions {
            max_concurrent_streams: Some(streams),
            settings_delay,
            ..ConnectionOptions::default()
        },
        latency: ANSWER,
        ..Options::default()
    }
}

/// What an answer took is the wait that it tells and the upstream's own time, and nothing else.
#[track_caller]
fn assert_no_hidden_wait(outcomes: &[Outcome], more: Duration) {
    for outcome in outcomes {
        let (took, queued) = (outcome.took, outcome.queued());
        assert!(
            took <= queued + ANSWER + more + SLACK,
            "took {took:?}, of which {queued:?} were told"
        );
    }
}

async fn eight_at_once(streams: u32, tls: bool) {
    let options = few(streams, Duration::ZERO, tls);
    let keys = "http = \"h2\"\nhead-timeout = \"3s\"";
    let pacing = "min-interval = \"100ms\"\nconcurrency = 16";
    let (recorder, gateway) = pair(options, keys, pacing).await;
    let outcomes = served(&gateway, 8).await;
    assert_no_hidden_wait(&outcomes, Duration::ZERO);
    let record = recorder.record();
    assert_eq!(record.len(), 8);
    let promise = Promise {
        min_interval: Duration::from_millis(100),
        ..Promise::default()
    };
    promise.assert_kept(&record);
}

#[tokio::test]
async fn no_request_waits_unseen_for_one_of_two_streams() {
    tokio::join!(eight_at_once(2, false), eight_at_once(2, true));
}

#[tokio::test]
async fn no_request_waits_unseen_for_the_only_stream() {
    tokio::join!(eight_at_once(1, false), eight_at_once(1, true));
}

/// All at once over a fresh connection: nothing may be sent that the server is about to refuse.
async fn six_over_a_fresh_connection(settings_delay: Duration) {
    let options = few(2, settings_delay, false);
    let pacing = "min-interval = \"0s\"\nconcurrency = 16\n\
                  quotas = [{ requests = 3, per = \"2s\" }]";
    let (recorder, gateway) = pair(options, "http = \"h2\"", pacing).await;
    let outcomes = served(&gateway, 6).await;
    // The answer to a request that did not wait for the SETTINGS comes after them.
    assert_no_hidden_wait(&outcomes, settings_delay);
    let record = recorder.record();
    assert_eq!(record.len(), 6);
    let promise = Promise {
        windows: vec![(3, Duration::from_secs(2))],
        ..Promise::default()
    };
    promise.assert_kept(&record);
}

#[tokio::test]
async fn a_fresh_connection_takes_no_more_than_its_settings_allow() {
    six_over_a_fresh_connection(Duration::ZERO).await;
}

#[tokio::test]
async fn a_connection_takes_no_more_than_its_late_settings_allow() {
    let delays = [200, 1000].map(Duration::from_millis);
    tokio::join!(
        six_over_a_fresh_connection(delays[0]),
        six_over_a_fresh_connection(delays[1]),
    );
}
