//! Sessions that take turns, with clients that leave and an upstream that refuses: what the
//! upstream saw is held against what was promised.

use std::time::Duration;

use futures_util::future::join_all;
use pacegate::simulator::{Arrival, Options, Simulator};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{assert_ok, chats, eventually, gaps_ms, models, pair, plain, queued, simulator};
use crate::support::{
    client::{Answer, post_json},
    gateway::{Gateway, PATIENCE, upstream},
    lateness::Lateness,
};

/// What the way to the upstream may add to one request and not to the next.
const SKEW: Duration = Duration::from_millis(20);

/// A thread for a simulator, so that clients do not keep it from looking at the clock.
struct OwnThread {
    runtime: Option<Runtime>,
}

impl OwnThread {
    fn start() -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        Self {
            runtime: Some(runtime),
        }
    }

    async fn simulator(&self, options: Options) -> Simulator {
        let runtime = self.runtime.as_ref().unwrap();
        runtime.spawn(simulator(options)).await.unwrap()
    }
}

impl Drop for OwnThread {
    fn drop(&mut self) {
        // Waiting for it is not allowed in a test that is itself a future.
        self.runtime.take().unwrap().shutdown_background();
    }
}

/// A request of `session`, which the upstream will know by the name of its model.
fn ask(
    gateway: &Gateway,
    session: &str,
    parent: Option<&str>,
    name: String,
) -> impl Future<Output = Answer> + use<> {
    let url = gateway.url("/v1/chat/completions");
    let mut headers = vec![("x-session-id", session.to_owned())];
    headers.extend(parent.map(|parent| ("x-parent-session-id", parent.to_owned())));
    async move {
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| (*name, &**value))
            .collect();
        post_json(&url, plain(name), &headers).await.unwrap()
    }
}

async fn settle(gateway: &Gateway, simulator: &Simulator) {
    timeout(PATIENCE, async {
        while gateway.metrics().await.sum("pacegate_upstream_in_flight") > 0
            || simulator.in_flight() > 0
        {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
}

/// The most arrivals in any stretch of `per`.
fn most_in_any(arrivals: &[Arrival], per: Duration) -> usize {
    let per = u64::try_from(per.as_micros()).unwrap();
    let inside = |start: &Arrival| {
        let within = start.at_us..start.at_us + per;
        arrivals
            .iter()
            .filter(|arrival| within.contains(&arrival.at_us))
            .count()
    };
    arrivals.iter().map(inside).max().unwrap_or_default()
}

#[tokio::test]
async fn two_hundred_requests_of_eight_sessions_keep_every_promise_at_the_upstream() {
    let thread = OwnThread::start();
    // On a busy machine nobody arrives in time.
    let lateness = Lateness::watch();
    let simulator = thread
        .simulator(Options {
            latency: Duration::from_millis(20),
            faults: ["20/429:retry-after-ms=1000", "90/429:retry-after=1"]
                .map(|fault| fault.parse().unwrap())
                .to_vec(),
            ..Options::default()
        })
        .await;
    let pacing = r#"
        [upstream.retry-on-429]
        budget = "100%"
        [upstream.jitter-throttle]
        min-interval = "50ms"
        jitter = "0ms..10ms"
        concurrency = 20
        max-queue = 200
        quotas = [{ requests = 40, per = "3s" }]
    "#;
    let gateway = Gateway::start(&upstream(&simulator.base_url(), pacing));
    let mut rng = StdRng::seed_from_u64(11);
    let visits: Vec<_> = (0..200)
        .map(|number| {
            let session = format!("s{}", number % 8);
            let arrives = Duration::from_millis(rng.random_range(0..2000));
            let leaves = rng
                .random_bool(0.15)
                .then(|| Duration::from_millis(rng.random_range(0..4000)));
            (number, session, arrives, leaves)
        })
        .collect();
    let gateway_ = &gateway;
    let asking = visits
        .into_iter()
        .map(|(number, session, arrives, leaves)| async move {
            sleep(arrives).await;
            let asked = ask(gateway_, &session, None, format!("{session} {number}"));
            match leaves {
                None => assert_ok(&asked.await),
                Some(patience) => {
                    // Its answer may come first.
                    let _left = timeout(patience, asked).await;
                }
            }
        });
    join_all(asking).await;
    settle(&gateway, &simulator).await;

    let arrivals = chats(&simulator);
    let dispatched = gateway.metrics().await.sum("pacegate_dispatches_total");
    assert_eq!(dispatched, arrivals.len() as u64, "tries on both sides");
    let late = SKEW + 2 * lateness.most();
    let least = gaps_ms(&arrivals).into_iter().fold(f64::MAX, f64::min);
    let promised = Duration::from_millis(50).saturating_sub(late).as_secs_f64() * 1000.0;
    assert!(least >= promised, "{least} of {promised} ms between two");
    let most = most_in_any(&arrivals, Duration::from_secs(3) - late);
    assert!(most <= 40, "{most} in three seconds less {late:?}");
}

#[tokio::test]
async fn a_session_with_one_request_does_not_wait_behind_anothers_eight() {
    // The first is held until all others are there; then they leave one after another.
    let one_at_once = "[upstream.jitter-throttle]\nconcurrency = 1";
    let (simulator, gateway) = pair(&["stall"], one_at_once).await;
    let mut first = JoinSet::new();
    first.spawn(ask(&gateway, "busy", None, "first".into()));
    eventually("the first does not leave", async || {
        chats(&simulator).len() == 1
    })
    .await;
    let mut others = JoinSet::new();
    for number in 0..8 {
        let child = format!("child {number}");
        others.spawn(ask(&gateway, &child, Some("busy"), child.clone()));
        queued(&gateway, number + 1).await;
    }
    others.spawn(ask(&gateway, "busy", None, "own".into()));
    queued(&gateway, 9).await;
    others.spawn(ask(&gateway, "lonely", None, "lonely".into()));
    queued(&gateway, 10).await;
    drop(first);
    while let Some(answer) = others.join_next().await {
        assert_ok(&answer.unwrap());
    }
    let arrivals = chats(&simulator);
    assert_eq!(
        models(&arrivals)[..4],
        ["first", "own", "lonely", "child 0"],
        "its own requests before its children's, and the other session in between"
    );
}
