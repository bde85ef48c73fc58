//! A thousand clients that leave.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use pacegate::simulator::{Options, ResponseEnd};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{assert_at_rest, dial, plain, request, simulator, streamed};
use crate::support::gateway::{Gateway, PATIENCE, upstream};

/// At once: each is a descriptor here, two in the gateway and one in the simulator.
const AT_ONCE: usize = 100;

/// Sends a part of a request or all of it, reads a part of the answer or nothing, and is gone.
async fn leave(gateway: &Gateway, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let json = "content-type: application/json\r\n";
    let body = if rng.random() {
        streamed("m")
    } else {
        plain("m")
    };
    let mut bytes = request("POST /v1/chat/completions", json, &body);
    let whole = bytes.len();
    match rng.random_range(0..8) {
        0 => bytes.truncate(rng.random_range(0..60)),
        1 => bytes.truncate(whole - rng.random_range(1..body.len())),
        _ => {}
    }
    let mut client = dial(gateway).await;
    client.write_all(&bytes).await.unwrap();
    // Half of those who can expect one wait for a part of the answer.
    let patience = if bytes.len() == whole && rng.random() {
        PATIENCE
    } else {
        Duration::from_micros(rng.random_range(0..100_000))
    };
    let _may_have_got_nothing = timeout(patience, async {
        let mut read = vec![0; rng.random_range(1..2000)];
        client.read_exact(&mut read).await
    })
    .await;
    if rng.random() {
        client.set_zero_linger().unwrap();
    }
}

#[tokio::test]
async fn a_thousand_clients_that_leave_take_everything_with_them_within_a_second() {
    let simulator = simulator(Options {
        latency: Duration::from_millis(5),
        chunks: 20,
        chunk_gap: Duration::from_millis(4),
        ..Options::default()
    })
    .await;
    let pacing = r#"
        [upstream.jitter-throttle]
        concurrency = 40
        max-queue = 80
    "#;
    let gateway = Gateway::start(&upstream(&simulator.base_url(), pacing));
    stream::iter(0..1000)
        .for_each_concurrent(AT_ONCE, |seed| leave(&gateway, seed))
        .await;
    assert_at_rest(&gateway, &simulator, Duration::from_secs(1)).await;
    // It was worth it: they left at every stage.
    let arrivals = simulator.arrivals();
    let ended = |outcome| {
        arrivals
            .iter()
            .filter(|it| it.outcome == Some(outcome))
            .count()
    };
    let (left, completed) = (
        ended(ResponseEnd::ClientLeft),
        ended(ResponseEnd::Completed),
    );
    assert!(
        left > 10 && completed > 10 && arrivals.len() < 900,
        "{left}, {completed}"
    );
    assert!(!gateway.log().contains("panicked"));
}
