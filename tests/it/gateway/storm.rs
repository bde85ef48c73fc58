//! Thousands of requests while the config is reloaded all the time and clients leave at random:
//! nobody loses an answer, and nothing is left behind.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use pacegate::simulator::{Options, Simulator};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep, timeout},
};

use super::{assert_at_rest, dial, eventually, plain, request, simulator, streamed};
use crate::support::gateway::{Gateway, PATIENCE, named_upstream};

/// At once: each is a descriptor here, two in the gateway and one in the simulator.
const AT_ONCE: usize = 50;

/// Ten thousand where there is time; by default so few that it ends in seconds.
fn requests() -> u64 {
    if std::env::var_os("PACEGATE_TEST_FULL").is_some() {
        10_000
    } else {
        1_500
    }
}

/// One upstream that never changes and one that is another each time.
fn config(simulator: &Simulator, turn: usize) -> String {
    let pace =
        "jitter-throttle = { min-interval = \"0s\", jitter = \"0s..0s\", concurrency = 40 }\n";
    let changed = format!("{pace}head-timeout = \"{}s\"\n", 20 + turn % 7);
    let base = simulator.base_url();
    let quiet = "log = { level = \"info\", format = \"json\" }\n".to_owned();
    quiet + &named_upstream("same", &base, pace) + &named_upstream("other", &base, &changed)
}

/// Sends a request; every third client leaves at some point, the others read to the end.
async fn visit(gateway: &Gateway, seed: u64, answered: &AtomicUsize) {
    let mut rng = StdRng::seed_from_u64(seed);
    let upstream = if rng.random() { "same" } else { "other" };
    let line = format!("POST /u/{upstream}/v1/chat/completions");
    let body = if rng.random() {
        streamed("m")
    } else {
        plain("m")
    };
    let chat = request(&line, "content-type: application/json\r\n", &body);
    let mut client = dial(gateway).await;
    client.write_all(&chat).await.unwrap();
    let mut answer = Vec::new();
    if seed.is_multiple_of(3) {
        let patience = Duration::from_micros(rng.random_range(0..40_000));
        let _gone = timeout(patience, client.read_to_end(&mut answer)).await;
        if rng.random() {
            client.set_zero_linger().unwrap();
        }
        return;
    }
    timeout(PATIENCE, client.read_to_end(&mut answer))
        .await
        .expect("no answer")
        .unwrap();
    let answer = String::from_utf8_lossy(&answer);
    let whole = answer.ends_with("data: [DONE]\n\n\r\n0\r\n\r\n") || answer.ends_with("}}");
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && whole,
        "{seed}: {answer}"
    );
    answered.fetch_add(1, Ordering::Relaxed);
}

fn reloads_of(gateway: &Gateway) -> usize {
    gateway.log().matches("\"Config reloaded\"").count()
}

/// Lets `seeds` visit while the config is reloaded all the time, 100 ms after each reload; how often
/// that happened.
async fn storm(gateway: &Gateway, simulator: &Simulator, seeds: std::ops::Range<u64>) -> usize {
    let (over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let expected = seeds.clone().filter(|seed| !seed.is_multiple_of(3)).count();
    let visits = async {
        stream::iter(seeds)
            .for_each_concurrent(AT_ONCE, |seed| visit(gateway, seed, &answered))
            .await;
        over.store(true, Ordering::Relaxed);
    };
    let reloads = async {
        let mut turn = 0;
        while !over.load(Ordering::Relaxed) {
            turn += 1;
            let before = reloads_of(gateway);
            gateway.reload(&config(simulator, turn));
            // Two signals at once would be one.
            eventually("it does not reload", async || reloads_of(gateway) > before).await;
            sleep(Duration::from_millis(100)).await;
        }
        turn
    };
    let ((), turns) = tokio::join!(visits, reloads);
    assert_eq!(answered.into_inner(), expected, "answers are lost");
    turns
}

#[tokio::test]
async fn reloads_and_clients_that_leave_cost_no_answer_no_permit_and_no_memory() {
    let simulator = simulator(Options {
        latency: Duration::from_millis(2),
        chunks: 4,
        chunk_gap: Duration::from_millis(2),
        ..Options::default()
    })
    .await;
    let gateway = Gateway::start(&config(&simulator, 0));
    storm(&gateway, &simulator, 0..requests() / 5).await;
    let before = gateway.resident_kib();
    let start = Instant::now();
    let turns = storm(&gateway, &simulator, 0..requests()).await;
    let took = start.elapsed();
    assert_at_rest(&gateway, &simulator, PATIENCE).await;
    let after = gateway.resident_kib();
    println!(
        "{} requests, {turns} reloads, {took:?}, {before} KiB before, {after} KiB after",
        requests()
    );
    assert!(
        after <= before + 5 * 1024,
        "{before} KiB before, {after} KiB after"
    );
    let log = gateway.log();
    assert!(turns > 1 && reloads_of(&gateway) > turns, "{turns}");
    assert!(
        !log.contains("panicked") && !log.contains("not reloaded"),
        "{log}"
    );
}
