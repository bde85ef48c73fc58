//! All guarantees at once.

use proptest::prelude::*;
use rand::RngExt;
use tokio::time::{sleep, timeout};

use super::*;

/// What one request of a random scenario does.
#[derive(Clone, Debug)]
struct Visitor {
    arrives: Duration,
    gives_up_after: Option<Duration>,
    in_flight_for: Duration,
}

fn visitors() -> impl Strategy<Value = Vec<Visitor>> {
    let millis = |range: std::ops::Range<u64>| range.prop_map(Duration::from_millis);
    let visitor = (
        millis(0..20_000),
        prop::option::weighted(0.3, millis(0..30_000)),
        millis(0..5_000),
    )
        .prop_map(|(arrives, gives_up_after, in_flight_for)| Visitor {
            arrives,
            gives_up_after,
            in_flight_for,
        });
    prop::collection::vec(visitor, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_guarantees_hold_for_any_arrivals_and_cancellations(
        visitors in visitors(),
        most in 1_usize..5,
        seed: u64,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let pacing = reference()
                .concurrency(NonZeroUsize::new(most))
                .max_wait(Duration::from_secs(3600));
            let gate = Gate::new(pacing, StdRng::seed_from_u64(seed));
            let mut rng = StdRng::seed_from_u64(seed);
            let closed = Instant::now() + Duration::from_secs(rng.random_range(0..30));
            close(&gate, closed);
            let left = Arc::new(std::sync::Mutex::new(Vec::new()));
            let mut tasks = JoinSet::new();
            for (index, visitor) in visitors.into_iter().enumerate() {
                let (gate, left) = (gate.clone(), Arc::clone(&left));
                tasks.spawn(async move {
                    sleep(visitor.arrives).await;
                    let arrived = Instant::now();
                    let patience = visitor.gives_up_after.unwrap_or(Duration::from_secs(86_400));
                    if let Ok(permit) = timeout(patience, gate.acquire(None)).await {
                        let permit = permit.unwrap();
                        permit.accepted();
                        assert!(gate.in_flight() <= most);
                        left.lock().unwrap().push((arrived, index, Instant::now()));
                        sleep(visitor.in_flight_for).await;
                        drop(permit);
                    }
                });
            }
            while let Some(done) = tasks.join_next().await {
                done.unwrap();
            }
            let left = left.lock().unwrap();
            for pair in left.windows(2) {
                assert!(pair[1].2 - pair[0].2 >= MIN + JITTER.0, "gap");
                assert!(pair[0].0 <= pair[1].0, "order");
            }
            assert!(left.iter().all(|(.., at)| *at >= closed), "closing");
            assert_eq!(gate.dispatched(), left.len() as u64, "accounting");
            assert_eq!((gate.waiting(), gate.in_flight()), (0, 0));
        });
    }
}
