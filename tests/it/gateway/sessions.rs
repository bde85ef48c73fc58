//! Sessions that take turns, with clients that leave and an upstream that refuses: what the
//! upstream saw is held against what was promised.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use pacegate::simulator::{Arrival, Options, Simulator};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    runtime::{Builder, Runtime},
    time::{Instant, sleep, timeout},
};

use super::{assert_ok, chats, gaps_ms, models, plain, simulator};
use crate::support::{
    client::{Answer, post_json},
    gateway::{Gateway, PATIENCE, upstream},
};

/// What the way to the upstream may add to one request and not to the next.
const SKEW: Duration = Duration::from_millis(20);

/// A thread for a simulator, so that clients do not keep it from looking at the clock; and how late
/// that thread itself has been, because on a busy machine nobody arrives in time.
struct OwnThread {
    runtime: Option<Runtime>,
    late_us: Arc<AtomicU64>,
}

impl OwnThread {
    fn start() -> Self {
        const TICK: Duration = Duration::from_millis(1);

        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let late_us = Arc::new(AtomicU64::new(0));
        let latest = Arc::clone(&late_us);
        runtime.spawn(async move {
            loop {
                let begun = Instant::now();
                sleep(TICK).await;
                let late = begun.elapsed().saturating_sub(TICK).as_micros();
                latest.fetch_max(u64::try_from(late).unwrap(), Ordering::Relaxed);
            }
        });
        Self {
            runtime: Some(runtime),
            late_us,
        }
    }

    async fn simulator(&self, options: Options) -> Simulator {
        let runtime = self.runtime.as_ref().unwrap();
        runtime.spawn(simulator(options)).await.unwrap()
    }

    /// The most by which it was late until now.
    fn late(&self) -> Duration {
        Duration::from_micros(self.late_us.load(Ordering::Relaxed))
    }
}

impl Drop for OwnThread {
    fn drop(&mut self) {
        // Waiting for it is not allowed in a test that is itself a future.
        self.runtime.take().unwrap().shutdown_background();
    }
}

/// A request of `session`, which the upstream will know by the name of its model.
async fn ask(gateway: &Gateway, session: &str, parent: Option<&str>, name: String) -> Answer {
    let url = gateway.url("/v1/chat/completions");
    let mut headers = vec![("x-session-id", session)];
    headers.extend(parent.map(|parent| ("x-parent-session-id", parent)));
    post_json(&url, plain(name), &headers).await.unwrap()
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
    let late = SKEW + thread.late();
    let least = gaps_ms(&arrivals).into_iter().fold(f64::MAX, f64::min);
    let promised = Duration::from_millis(50).saturating_sub(late).as_secs_f64() * 1000.0;
    assert!(least >= promised, "{least} of {promised} ms between two");
    let most = most_in_any(&arrivals, Duration::from_secs(3) - late);
    assert!(most <= 40, "{most} in three seconds less {late:?}");
}

#[tokio::test]
async fn a_session_with_one_request_does_not_wait_behind_anothers_eight() {
    let simulator = simulator(Options::default()).await;
    let pacing = "[upstream.jitter-throttle]\nmin-interval = \"200ms\"\njitter = \"0s..0s\"";
    let gateway = Gateway::start(&upstream(&simulator.base_url(), pacing));
    let first = ask(&gateway, "busy", None, "first".into());
    let eight = join_all((0..8).map(|number| {
        let gateway = &gateway;
        async move {
            sleep(Duration::from_millis(30 + 5 * number)).await;
            let child = format!("child {number}");
            ask(gateway, &child, Some("busy"), child.clone()).await
        }
    }));
    let own = async {
        sleep(Duration::from_millis(90)).await;
        ask(&gateway, "busy", None, "own".into()).await
    };
    let lonely = async {
        sleep(Duration::from_millis(100)).await;
        ask(&gateway, "lonely", None, "lonely".into()).await
    };
    let (first, eight, own, lonely) = tokio::join!(first, eight, own, lonely);
    eight
        .iter()
        .chain([&first, &own, &lonely])
        .for_each(assert_ok);
    let arrivals = chats(&simulator);
    assert_eq!(
        models(&arrivals)[..4],
        ["first", "own", "lonely", "child 0"],
        "its own requests before its children's, and the other session in between"
    );
}
