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
use crate::{
    cooldown::{Cooldown, Pace},
    error::{BoxError, NotSent},
    progress::Progress,
    session::Session,
    token::TokenError,
};

const MIN: Duration = Duration::from_secs(1);
const JITTER: (Duration, Duration) = (Duration::from_millis(500), Duration::from_millis(1500));

fn reference() -> Pacing {
    Pacing::new()
        .min_interval(MIN)
        .jitter(JITTER.0..=JITTER.1)
        .unwrap()
}

fn gate(pacing: Pacing) -> Gate {
    Gate::new(pacing, StdRng::seed_from_u64(7))
}

/// The upstream says "slow down" to somebody who was sent long ago.
fn close(gate: &Gate, until: Instant) {
    gate.refused(&Progress::new(), until, Pace::Same);
}

/// Sends `count` requests at once and says who left when, in the order they left.
async fn burst(gate: &Gate, count: usize) -> Vec<(usize, Instant)> {
    let left = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = JoinSet::new();
    for index in 0..count {
        let (gate, left) = (gate.clone(), Arc::clone(&left));
        tasks.spawn(async move {
            let _permit = gate.acquire(None, None).await.unwrap();
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
    let gate = gate(reference());
    for _ in 0..3 {
        let before = Instant::now();
        gate.acquire(None, None).await.unwrap();
        assert_eq!(before.elapsed(), Duration::ZERO);
        advance(Duration::from_secs(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn with_idle_jitter_even_a_lone_request_waits() {
    let gate = gate(reference().idle_jitter(true));
    let before = Instant::now();
    gate.acquire(None, None).await.unwrap();
    assert!((JITTER.0..=JITTER.1).contains(&before.elapsed()));
}

#[tokio::test(start_paused = true)]
async fn a_burst_leaves_in_order_with_a_new_gap_each() {
    let gate = gate(reference());
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
    let gate = gate(Pacing::new().min_interval(MIN));
    let start = Instant::now();
    drop(gate.acquire(None, None).await.unwrap());
    let mut first = task::spawn(gate.acquire(None, None));
    let mut second = task::spawn(gate.acquire(None, None));
    let mut third = task::spawn(gate.acquire(None, None));
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
    let gate = gate(Pacing::new().concurrency(NonZeroUsize::new(2)));
    let one = gate.acquire(None, None).await.unwrap();
    let _two = gate.acquire(None, None).await.unwrap();
    let mut three = task::spawn(gate.acquire(None, None));
    assert_pending!(three.poll());
    assert_eq!((gate.waiting(), gate.in_flight()), (1, 2));
    drop(one);
    assert!(three.is_woken());
    let _three = assert_ready!(three.poll()).unwrap();
    assert_eq!((gate.waiting(), gate.in_flight()), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn nobody_leaves_before_the_cooldown_ends_also_when_it_is_extended_meanwhile() {
    let gate = gate(Pacing::new());
    let start = Instant::now();
    close(&gate, start + Duration::from_secs(3));
    let mut waiting = task::spawn(gate.acquire(None, None));
    assert_pending!(waiting.poll());
    close(&gate, start + Duration::from_secs(5));
    waiting.await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_at_once_with_the_estimate_and_spends_nothing() {
    let gate = gate(Pacing::new().min_interval(MIN).max_queue(2));
    gate.acquire(None, None).await.unwrap();
    let mut waiting: Vec<_> = (0..2)
        .map(|_| task::spawn(gate.acquire(None, None)))
        .collect();
    for turn in &mut waiting {
        assert_pending!(turn.poll());
    }
    let refused = gate.acquire(None, None).await.unwrap_err();
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
    let gate = gate(Pacing::new().min_interval(MIN).max_queue(0));
    gate.acquire(None, None).await.unwrap();
    assert!(matches!(
        gate.acquire(None, None).await,
        Err(Refused::QueueFull { waiting: 0, .. })
    ));
    advance(MIN).await;
    gate.acquire(None, None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_would_be_too_long_is_not_begun() {
    let gate = gate(Pacing::new().max_wait(Duration::from_secs(5)));
    close(&gate, Instant::now() + Duration::from_secs(6));
    let before = Instant::now();
    let refused = gate.acquire(None, None).await.unwrap_err();
    assert_eq!(
        refused,
        Refused::WouldWaitTooLong {
            estimate: Duration::from_secs(6)
        }
    );
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_retry_goes_first_and_is_not_refused_for_the_length_of_the_queue() {
    let gate = gate(Pacing::new().min_interval(MIN).max_queue(2));
    let progress = Progress::new();
    gate.acquire(Some(progress.clone()), None).await.unwrap();
    let mut others: Vec<_> = (0..2)
        .map(|_| task::spawn(gate.acquire(None, None)))
        .collect();
    for turn in &mut others {
        assert_pending!(turn.poll());
    }
    close(&gate, Instant::now() + Duration::from_secs(60));

    let mut again = task::spawn(gate.acquire(Some(progress.clone()), None));
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
    let gate = gate(Pacing::new().min_interval(MIN));
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
    let gate = gate(Pacing::new());
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
    let gate = gate(Pacing::new());
    let service =
        JitterThrottleLayer::new(gate.clone()).layer(service_fn(|_: Request<()>| async {
            Err::<Response<Empty<&[u8]>>, BoxError>("broken".into())
        }));
    service.oneshot(Request::new(())).await.unwrap_err();
    assert_eq!(gate.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_is_too_long_ends_the_wait_of_everybody() {
    let gate = gate(Pacing::new().min_interval(MIN));
    gate.acquire(None, None).await.unwrap();
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let mut turn = task::spawn(gate.acquire(None, None));
            assert_pending!(turn.poll());
            turn
        })
        .collect();
    close(&gate, Instant::now() + Duration::from_secs(900));
    for turn in waiting {
        assert!(matches!(
            turn.await,
            Err(Refused::WouldWaitTooLong { estimate }) if estimate == Duration::from_secs(900)
        ));
    }
    assert_eq!((gate.waiting(), gate.dispatched()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn after_a_pause_one_goes_as_a_probe_and_the_rest_wait_for_its_answer() {
    let gate = gate(Pacing::new());
    let start = Instant::now();
    close(&gate, start + Duration::from_secs(3));
    let mut first = task::spawn(gate.acquire(None, None));
    let mut second = task::spawn(gate.acquire(None, None));
    assert_pending!(first.poll());
    assert_pending!(second.poll());
    let probe = first.await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_secs(3));
    advance(Duration::from_secs(60)).await;
    assert_pending!(second.poll());
    probe.accepted();
    assert!(second.is_woken());
    assert_ready!(second.poll()).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_ends_without_an_answer_makes_way_for_another() {
    let gate = gate(Pacing::new());
    close(&gate, Instant::now() + Duration::from_secs(3));
    let probe = gate.acquire(None, None).await.unwrap();
    let mut next = task::spawn(gate.acquire(None, None));
    assert_pending!(next.poll());
    drop(probe);
    assert!(next.is_woken());
    let _probe = assert_ready!(next.poll()).unwrap();
    let mut third = task::spawn(gate.acquire(None, None));
    assert_pending!(third.poll());
}

#[tokio::test(start_paused = true)]
async fn two_refusals_in_a_row_shrink_the_window_for_five_minutes() {
    let window = || Arc::new(Window::new(NonZeroUsize::new(10).unwrap(), 60 * MIN));
    let gate = Gate::with_quotas(Pacing::new(), vec![window()], StdRng::seed_from_u64(7));
    let progress = Progress::new();
    // Refused, then refused again as the probe.
    gate.acquire(Some(progress.clone()), None).await.unwrap();
    gate.refused(&progress, Instant::now() + MIN, Pace::Same);
    let probe = gate.acquire(Some(progress.clone()), None).await.unwrap();
    gate.refused(&progress, Instant::now() + MIN, Pace::Same);
    drop(probe);
    let again = gate.acquire(Some(progress), None).await.unwrap();
    again.accepted();

    let opened = Instant::now();
    for _ in 0..4 {
        gate.acquire(None, None).await.unwrap();
    }
    assert_eq!(opened.elapsed(), Duration::ZERO, "seven of ten are free");
    gate.acquire(None, None).await.unwrap();
    assert!(opened.elapsed() >= 57 * MIN, "the eighth waits for a place");
    advance(5 * 60 * MIN).await;
    let later = Instant::now();
    for _ in 0..10 {
        gate.acquire(None, None).await.unwrap();
    }
    assert_eq!(later.elapsed(), Duration::ZERO, "then all ten are");
}

#[tokio::test(start_paused = true)]
async fn late_refusals_of_what_was_sent_before_count_once() {
    let window = || Arc::new(Window::new(NonZeroUsize::new(10).unwrap(), 60 * MIN));
    let gate = Gate::with_quotas(Pacing::new(), vec![window()], StdRng::seed_from_u64(7));
    for _ in 0..4 {
        close(&gate, Instant::now() + MIN);
    }
    let opened = Instant::now();
    for _ in 0..10 {
        gate.acquire(None, None).await.unwrap().accepted();
    }
    assert_eq!(opened.elapsed(), MIN, "nothing is shrunk");
}

#[tokio::test(start_paused = true)]
async fn a_window_is_never_overdrawn_and_a_long_wait_for_it_is_not_begun() {
    let window = Window::new(NonZeroUsize::new(3).unwrap(), Duration::from_secs(60));
    let gate = Gate::with_quotas(
        Pacing::new().max_wait(Duration::from_secs(70)),
        vec![Arc::new(window)],
        StdRng::seed_from_u64(7),
    );
    let start = Instant::now();
    let left = burst(&gate, 4).await;
    assert_eq!(left[2].1, start);
    assert_eq!(left[3].1, start + Duration::from_secs(60));
    gate.exhausted(Instant::now() + Duration::from_secs(3600));
    assert_eq!(
        gate.acquire(None, None).await.unwrap_err(),
        Refused::QuotaExhausted {
            reset: Duration::from_secs(3600)
        }
    );
}

#[tokio::test(start_paused = true)]
async fn a_session_that_waits_leaves_within_as_many_dispatches_as_there_are_sessions() {
    let gate = gate(Pacing::new().min_interval(MIN));
    gate.acquire(None, None).await.unwrap();
    let left = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = JoinSet::new();
    for (name, session) in [
        ("a", Session::new("a")),
        ("a's child", Session::new("a1").child_of("a")),
        ("a's child", Session::new("a2").child_of("a")),
        ("a's child", Session::new("a3").child_of("a")),
        ("b", Session::new("b")),
        ("a", Session::new("a")),
    ] {
        let (gate, left) = (gate.clone(), Arc::clone(&left));
        tasks.spawn(async move {
            let _permit = gate.acquire(None, Some(session)).await.unwrap();
            left.lock().await.push(name);
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(
        *left.lock().await,
        ["a", "b", "a", "a's child", "a's child", "a's child"]
    );
}

#[tokio::test(start_paused = true)]
async fn busy_times_have_shorter_gaps() {
    let busy = Busy {
        from: NonZeroUsize::new(15).unwrap(),
        within: Duration::from_secs(60),
        jitter: Duration::ZERO..=Duration::from_millis(200),
    };
    let gate = gate(reference().busy(busy).unwrap());
    let left = burst(&gate, 80).await;
    let gaps = gaps(&left);
    assert!(gaps[..14].iter().all(|gap| *gap >= MIN + JITTER.0));
    let late = Duration::from_millis(201);
    assert!(
        gaps[14..]
            .iter()
            .all(|gap| (MIN..=MIN + late).contains(gap))
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_not_sent_gives_back_what_only_the_upstream_counts() {
    #[derive(Debug, Default)]
    struct Counted(std::sync::atomic::AtomicI64);

    impl Quota for Counted {
        fn room(&self, _ahead: usize, _share: Share) -> Option<Instant> {
            None
        }

        fn spend(&self) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }

        fn give_back(&self, _spent: Instant) {
            self.0.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    let quota = Arc::new(Counted::default());
    let gate = Gate::with_quotas(
        Pacing::new(),
        vec![Arc::clone(&quota) as Arc<dyn Quota>],
        StdRng::seed_from_u64(7),
    );
    let spent = || quota.0.load(std::sync::atomic::Ordering::Relaxed);
    for (error, left) in [
        (BoxError::from("reset"), 1),
        (NotSent("refused".into()).into(), 1),
        (TokenError::LoginRequired("log in".into()).into(), 1),
    ] {
        let error = std::sync::Mutex::new(Some(error));
        JitterThrottleLayer::new(gate.clone())
            .layer(service_fn(|_: Request<()>| {
                let error = error.lock().unwrap().take().unwrap();
                async { Err::<Response<Empty<&[u8]>>, BoxError>(error) }
            }))
            .oneshot(Request::new(()))
            .await
            .unwrap_err();
        assert_eq!(spent(), left);
    }
}

#[tokio::test(start_paused = true)]
async fn says_where_a_waiting_request_stands() {
    let gate = gate(Pacing::new().min_interval(MIN));
    gate.acquire(None, None).await.unwrap();
    let mut turns = Vec::new();
    for place in 1..4 {
        let progress = Progress::new();
        let mut turn = task::spawn(gate.acquire(Some(progress.clone()), None));
        assert_pending!(turn.poll());
        turns.push(turn);
        let eta = MIN * u32::try_from(place).unwrap();
        assert_eq!(gate.outlook(&progress), Some(Outlook { place, eta }));
    }
    assert_eq!(gate.outlook(&Progress::new()), None);
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
                    if let Ok(permit) = timeout(patience, gate.acquire(None, None)).await {
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
