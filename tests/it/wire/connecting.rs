//! Connections that take their time, in front of gates that do not wait for them.

use std::time::Duration;

use pacegate::simulator::{ConnectionOptions, Options, TlsOptions};
use tokio::time::Instant;

use super::{Promise, SLACK, arrived, ask, pair, served};

/// A TLS upstream whose first handshakes are slow.
fn slow(h2: bool, handshake_delay: Duration, slow_handshakes: Option<u64>) -> Options {
    Options {
        tls: Some(TlsOptions {
            h2,
            ..TlsOptions::default()
        }),
        connections: ConnectionOptions {
            handshake_delay,
            slow_handshakes,
            ..ConnectionOptions::default()
        },
        ..Options::default()
    }
}

async fn window_behind_slow_handshakes(h2: bool, seconds: u64) {
    let delay = Duration::from_secs(seconds);
    let pacing = "min-interval = \"0s\"\nconcurrency = 16\n\
                  quotas = [{ requests = 3, per = \"2s\" }]";
    let (recorder, gateway) = pair(slow(h2, delay, Some(3)), "", pacing).await;
    served(&gateway, 9).await;
    let promise = Promise {
        windows: vec![(3, Duration::from_secs(2))],
        ..Promise::default()
    };
    let record = recorder.record();
    assert_eq!(record.len(), 9);
    promise.assert_kept(&record);
}

#[tokio::test]
async fn a_window_holds_where_the_first_http1_handshakes_are_slow() {
    tokio::join!(
        window_behind_slow_handshakes(false, 1),
        window_behind_slow_handshakes(false, 2),
    );
}

#[tokio::test]
async fn a_window_holds_where_the_first_http2_handshakes_are_slow() {
    tokio::join!(
        window_behind_slow_handshakes(true, 1),
        window_behind_slow_handshakes(true, 2),
    );
}

/// A connection that is there is faster than one that has to be made, whichever goes first.
async fn gap_between_new_and_warm(options: Options) {
    let pacing = "min-interval = \"1s\"\nconcurrency = 16";
    let (recorder, gateway) = pair(options, "", pacing).await;
    ask(&gateway).await.assert_ok();
    served(&gateway, 5).await;
    let promise = Promise {
        min_interval: Duration::from_secs(1),
        ..Promise::default()
    };
    let record = recorder.record();
    assert_eq!(record.len(), 6);
    promise.assert_kept(&record);
}

/// Answers take longer than the interval, so that every other request needs another connection.
#[tokio::test]
async fn a_gap_holds_between_new_http1_connections_and_warm_ones() {
    let options = Options {
        latency: Duration::from_millis(1500),
        ..slow(false, Duration::from_secs(1), None)
    };
    gap_between_new_and_warm(options).await;
}

/// A connection ends with its second request.
#[tokio::test]
async fn a_gap_holds_between_new_http2_connections_and_warm_ones() {
    let mut options = slow(true, Duration::from_secs(1), None);
    options.connections.max_requests = Some(2);
    gap_between_new_and_warm(options).await;
}

#[tokio::test]
async fn connections_are_made_in_parallel() {
    let options = Options {
        latency: Duration::from_secs(2),
        ..slow(false, Duration::from_millis(300), None)
    };
    let keys = "http = \"auto\"\nconnect-timeout = \"3s\"";
    let pacing = "min-interval = \"0s\"\nconcurrency = 32";
    let (recorder, gateway) = pair(options, keys, pacing).await;
    let start = Instant::now();
    let arriving = async {
        arrived(&recorder, 20).await;
        start.elapsed()
    };
    let (_, took) = tokio::join!(served(&gateway, 20), arriving);
    // One after the other they would take 6 s; eight at once, 0.9 s.
    let parallel = Duration::from_millis(900) + 2 * SLACK;
    assert!(took < parallel, "{took:?}");
    assert_eq!(recorder.simulator().arrivals().len(), 20);
}

#[tokio::test]
async fn a_handshake_is_a_wait_that_the_answer_tells() {
    let delay = Duration::from_secs(1);
    let options = slow(true, delay, None);
    let (_recorder, gateway) = pair(options, "", "min-interval = \"0s\"").await;
    let [cold, warm] = [ask(&gateway).await, ask(&gateway).await];
    for outcome in [&cold, &warm] {
        outcome.assert_ok();
        assert!(outcome.took <= outcome.queued() + SLACK, "{outcome:?}");
    }
    assert!(cold.took >= delay && warm.took < delay, "{:?}", warm.took);
}
