//! The gate's promises, on a paused clock.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    sync::Mutex,
    task::JoinSet,
    time::{Instant, advance, sleep, timeout},
};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer, Service, ServiceExt, service_fn};

use super::*;
use crate::{cooldown::Cooldown, error::BoxError, progress::Progress};

const MIN: Duration = Duration::from_secs(1);
const JITTER: (Duration, Duration) = (Duration::from_millis(500), Duration::from_millis(1500));

fn reference() -> Pacing {
    Pacing::new()
        .min_interval(MIN)
        .jitter(JITTER.0..=JITTER.1)
        .unwrap()
}

fn gate(pacing: Pacing) -> (Gate, Cooldown) {
    let cooldown = Cooldown::new();
    let gate = Gate::new(pacing, cooldown.clone(), StdRng::seed_from_u64(7));
    (gate, cooldown)
}

/// Sends `count` requests at once and says who left when, in the order they left.
async fn burst(gate: &Gate, count: usize) -> Vec<(usize, Instant)> {
    let left = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = JoinSet::new();
    for index in 0..count {
        let (gate, left) = (gate.clone(), Arc::clone(&left));
        tasks.spawn(async move {
            let _permit = gate.acquire(None).await.unwrap();
            left.lock().await.push((index, Instant::now()));
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    Arc::into_inner(left).unwrap().into_inner()
}

fn gaps(left: &[(usize, Instant)]) -> Vec<Duration> {
    left.windows(2).map(|pair| pair[1].1 - pair[0].1).collect()
}

#[tokio::test(start_paused = true)]
async fn a_lone_request_does_not_wait() {
    let (gate, _) = gate(reference());
    for _ in 0..3 {
        let before = Instant::now();
        gate.acquire(None).await.unwrap();
        assert_eq!(before.elapsed(), Duration::ZERO);
        advance(Duration::from_secs(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn with_idle_jitter_even_a_lone_request_waits() {
    let (gate, _) = gate(reference().idle_jitter(true));
    let before = Instant::now();
    gate.acquire(None).await.unwrap();
    assert!((JITTER.0..=JITTER.1).contains(&before.elapsed()));
}

#[tokio::test(start_paused = true)]
async fn a_burst_leaves_in_order_with_a_new_gap_each() {
    let (gate, _) = gate(reference());
    let left = burst(&gate, 50).await;
    assert!(left.iter().map(|(index, _)| *index).eq(0..50));
    let mut gaps = gaps(&left);
    // A tokio timer may fire up to a millisecond late, never early.
    let longest = MIN + JITTER.1 + Duration::from_millis(1);
    assert!(
        gaps.iter()
            .all(|gap| (MIN + JITTER.0..=longest).contains(gap))
    );
    gaps.sort();
    gaps.dedup();
    assert!(gaps.len() > 40, "the jitter is drawn once for all");
    assert_eq!(gate.dispatched(), 50);
    assert_eq!((gate.waiting(), gate.in_flight()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_leaves_takes_nothing_with_it() {
    let (gate, _) = gate(Pacing::new().min_interval(MIN));
    let start = Instant::now();
    drop(gate.acquire(None).await.unwrap());
    let mut first = task::spawn(gate.acquire(None));
    let mut second = task::spawn(gate.acquire(None));
    let mut third = task::spawn(gate.acquire(None));
    assert_pending!(first.poll());
    assert_pending!(second.poll());
    assert_pending!(third.poll());

    drop(second);
    drop(first);
    assert_eq!(gate.waiting(), 1);
    assert!(
        third.is_woken(),
        "the next one is told that it is first now"
    );
    third.await.unwrap();
    assert_eq!(start.elapsed(), MIN);
    assert_eq!(gate.dispatched(), 2);
}

#[tokio::test(start_paused = true)]
async fn concurrency_is_held_until_the_permit_is_dropped() {
    let (gate, _) = gate(Pacing::new().concurrency(NonZeroUsize::new(2)));
    let one = gate.acquire(None).await.unwrap();
    let _two = gate.acquire(None).await.unwrap();
    let mut three = task::spawn(gate.acquire(None));
    assert_pending!(three.poll());
    assert_eq!((gate.waiting(), gate.in_flight()), (1, 2));
    drop(one);
    assert!(three.is_woken());
    let _three = assert_ready!(three.poll()).unwrap();
    assert_eq!((gate.waiting(), gate.in_flight()), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn nobody_leaves_before_the_cooldown_ends_also_when_it_is_extended_meanwhile() {
    let (gate, cooldown) = gate(Pacing::new());
    let start = Instant::now();
    cooldown.close_until(start + Duration::from_secs(3));
    let mut waiting = task::spawn(gate.acquire(None));
    assert_pending!(waiting.poll());
    cooldown.close_until(start + Duration::from_secs(5));
    waiting.await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_at_once_with_the_estimate_and_spends_nothing() {
    let (gate, _) = gate(Pacing::new().min_interval(MIN).max_queue(2));
    gate.acquire(None).await.unwrap();
    let mut waiting: Vec<_> = (0..2).map(|_| task::spawn(gate.acquire(None))).collect();
    for turn in &mut waiting {
        assert_pending!(turn.poll());
    }
    let refused = gate.acquire(None).await.unwrap_err();
    assert_eq!(
        refused,
        Refused::QueueFull {
            waiting: 2,
            estimate: 3 * MIN
        }
    );
    drop(waiting);
    assert_eq!((gate.waiting(), gate.dispatched()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_queue_of_nothing_lets_through_only_who_need_not_wait() {
    let (gate, _) = gate(Pacing::new().min_interval(MIN).max_queue(0));
    gate.acquire(None).await.unwrap();
    assert!(matches!(
        gate.acquire(None).await,
        Err(Refused::QueueFull { waiting: 0, .. })
    ));
    advance(MIN).await;
    gate.acquire(None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_would_be_too_long_is_not_begun() {
    let (gate, cooldown) = gate(Pacing::new().max_wait(Duration::from_secs(5)));
    cooldown.close_until(Instant::now() + Duration::from_secs(6));
    let before = Instant::now();
    let refused = gate.acquire(None).await.unwrap_err();
    assert_eq!(
        refused,
        Refused::WouldWaitTooLong {
            estimate: Duration::from_secs(6)
        }
    );
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_retry_keeps_its_place_and_is_never_refused() {
    let (gate, cooldown) = gate(
        Pacing::new()
            .min_interval(MIN)
            .max_queue(2)
            .max_wait(Duration::from_secs(5)),
    );
    let progress = Progress::new();
    gate.acquire(Some(progress.clone())).await.unwrap();
    let mut others: Vec<_> = (0..2).map(|_| task::spawn(gate.acquire(None))).collect();
    for turn in &mut others {
        assert_pending!(turn.poll());
    }
    cooldown.close_until(Instant::now() + Duration::from_secs(60));

    let mut again = task::spawn(gate.acquire(Some(progress.clone())));
    assert_pending!(again.poll());
    let _permit = again.await.unwrap();
    assert_eq!(
        gate.waiting(),
        2,
        "the retry left before those that came later"
    );
    assert_eq!(progress.queued(), Duration::from_secs(60));
}

#[tokio::test(start_paused = true)]
async fn the_slot_is_taken_in_the_poll_that_calls_the_inner_service() {
    let (gate, _) = gate(Pacing::new().min_interval(MIN));
    let seen = gate.clone();
    let mut service =
        JitterThrottleLayer::new(gate.clone()).layer(service_fn(move |_: Request<()>| {
            let dispatched = seen.dispatched();
            async move {
                assert_eq!(dispatched, 1);
                Ok::<_, BoxError>(Response::new(Empty::<&[u8]>::new()))
            }
        }));
    let call = service.ready().await.unwrap().call(Request::new(()));
    assert_eq!(gate.dispatched(), 0, "nothing is taken before it is polled");
    call.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_request_is_in_flight_until_its_body_ends_or_is_dropped() {
    let (gate, _) = gate(Pacing::new());
    let service =
        JitterThrottleLayer::new(gate.clone()).layer(service_fn(|_: Request<()>| async {
            Ok::<_, BoxError>(Response::new(Full::new(&b"x"[..])))
        }));
    let read = service.clone().oneshot(Request::new(())).await.unwrap();
    let left = service.clone().oneshot(Request::new(())).await.unwrap();
    assert_eq!(gate.in_flight(), 2);
    read.into_body().collect().await.unwrap();
    assert_eq!(gate.in_flight(), 1);
    drop(left);
    assert_eq!(gate.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_fails_gives_its_permit_back() {
    let (gate, _) = gate(Pacing::new());
    let service =
        JitterThrottleLayer::new(gate.clone()).layer(service_fn(|_: Request<()>| async {
            Err::<Response<Empty<&[u8]>>, BoxError>("broken".into())
        }));
    service.oneshot(Request::new(())).await.unwrap_err();
    assert_eq!(gate.in_flight(), 0);
}

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
    fn the_promises_hold_for_any_arrivals_and_cancellations(
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
            let cooldown = Cooldown::new();
            let pacing = reference()
                .concurrency(NonZeroUsize::new(most))
                .max_wait(Duration::from_secs(3600));
            let gate = Gate::new(pacing, cooldown.clone(), StdRng::seed_from_u64(seed));
            let mut rng = StdRng::seed_from_u64(seed);
            let closed = Instant::now() + Duration::from_secs(rng.random_range(0..30));
            cooldown.close_until(closed);
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
