//! Requests that have to prepare before they can leave.

use std::{
    convert::Infallible,
    future::poll_fn,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll},
};

use http::{Request, Response};
use http_body_util::Empty;
use tokio::{
    sync::Notify,
    time::{Sleep, advance, sleep},
};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer, Service, ServiceExt};

use super::*;
use crate::error::{NotProcessed, NotSent, Stale};

/// Ready after a while from the first poll; released, it begins anew.
struct Connection {
    takes: Duration,
    sleep: Option<std::pin::Pin<Box<Sleep>>>,
    begun: Arc<AtomicUsize>,
}

impl Connection {
    fn new(takes: Duration, begun: &Arc<AtomicUsize>) -> Self {
        Self {
            takes,
            sleep: None,
            begun: Arc::clone(begun),
        }
    }
}

impl Readiness for Connection {
    type Error = Infallible;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        let sleep = self.sleep.get_or_insert_with(|| {
            self.begun.fetch_add(1, Ordering::Relaxed);
            Box::pin(sleep(self.takes))
        });
        // A sleep that has ended stays ended.
        if sleep.is_elapsed() {
            return Poll::Ready(Ok(()));
        }
        std::future::Future::poll(sleep.as_mut(), cx).map(Ok)
    }

    fn release(&mut self) {
        self.sleep = None;
    }
}

/// Waits for a turn with a connection that takes `takes`, and returns when it came.
async fn leave(gate: Gate, takes: Duration, begun: Arc<AtomicUsize>) -> (Instant, Permit) {
    let mut turn = gate.acquire(None);
    let mut connection = Connection::new(takes, &begun);
    let permit = poll_fn(|cx| turn.poll_with(cx, &mut connection)).await;
    (Instant::now(), permit.unwrap())
}

/// Like [`leave`], on a task of its own.
fn spawn_leave(
    gate: &Gate,
    takes: Duration,
    begun: &Arc<AtomicUsize>,
) -> JoinSet<(Instant, Permit)> {
    let mut task = JoinSet::new();
    task.spawn(leave(gate.clone(), takes, Arc::clone(begun)));
    task
}

async fn joined<T: 'static>(mut task: JoinSet<T>) -> T {
    task.join_next().await.unwrap().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_slow_connection_takes_no_turn_until_it_is_there() {
    let gate = gate(Pacing::new().min_interval(MIN));
    let start = Instant::now();
    let begun = Arc::default();
    let slow = spawn_leave(&gate, Duration::from_millis(2500), &begun);
    tokio::task::yield_now().await;
    let fast = spawn_leave(&gate, Duration::ZERO, &begun);
    let ((slow, _), (fast, _)) = (joined(slow).await, joined(fast).await);
    let since = |instant: Instant| (instant - start).as_millis();
    assert!(
        since(fast) <= 1001,
        "{}: the slow one holds it up for a second",
        since(fast)
    );
    assert_eq!(since(slow), 2500);
    assert!(slow - fast >= MIN, "the gap lies between departures");
}

#[tokio::test(start_paused = true)]
async fn connections_are_prepared_shortly_before_their_turns_and_few_at_once() {
    let pacing = Pacing::new().min_interval(20 * MIN).prepare_within(5 * MIN);
    let gate = gate(pacing);
    let begun = Arc::default();
    drop(gate.acquire(None).await.unwrap());
    let waiting: Vec<_> = (0..3)
        .map(|_| spawn_leave(&gate, Duration::ZERO, &begun))
        .collect();
    advance(14 * MIN).await;
    assert_eq!(begun.load(Ordering::Relaxed), 0, "six seconds before");
    advance(MIN + Duration::from_millis(2)).await;
    tokio::task::yield_now().await;
    assert_eq!(begun.load(Ordering::Relaxed), 1);
    for turn in waiting {
        joined(turn).await;
    }
    assert_eq!(begun.load(Ordering::Relaxed), 3, "each once");
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_the_upstream_gives_connections_back() {
    let gate = gate(Pacing::new().min_interval(2 * MIN));
    drop(gate.acquire(None).await.unwrap());
    let begun = Arc::default();
    let turn = spawn_leave(&gate, Duration::ZERO, &begun);
    advance(MIN).await;
    tokio::task::yield_now().await;
    let until = Instant::now() + 60 * MIN;
    close(&gate, until);
    let (left, _permit) = joined(turn).await;
    assert_eq!(left, until);
    assert_eq!(
        begun.load(Ordering::Relaxed),
        2,
        "again, shortly before the end"
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_connection_is_lost_keeps_its_place_and_holds_up_nobody() {
    #[derive(Default)]
    struct Lost(bool);

    impl Readiness for &mut Lost {
        type Error = Infallible;

        fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            if self.0 {
                Poll::Pending
            } else {
                Poll::Ready(Ok(()))
            }
        }

        fn release(&mut self) {}
    }

    let gate = gate(Pacing::new().concurrency(NonZeroUsize::new(1)));
    let busy = gate.acquire(None).await.unwrap();
    let mut lost = Lost::default();
    let mut first = task::spawn(());
    let mut turn = gate.acquire(None);
    let mut second = task::spawn(gate.acquire(None));
    assert_pending!(first.enter(|cx, _| turn.poll_with(cx, &mut &mut lost)));
    assert_pending!(second.poll());
    lost.0 = true;
    assert_pending!(first.enter(|cx, _| turn.poll_with(cx, &mut &mut lost)));
    drop(busy);
    assert!(second.is_woken(), "the first one is not ready");
    let permit = assert_ready!(second.poll()).unwrap();
    let mut third = task::spawn(gate.acquire(None));
    assert_pending!(third.poll());
    lost.0 = false;
    drop(permit);
    let _permit = assert_ready!(first.enter(|cx, _| turn.poll_with(cx, &mut &mut lost))).unwrap();
    assert_pending!(third.poll(), "the first one was before it");
}

/// A ledger that takes a second to decide, and counts what it has granted.
#[derive(Debug, Default)]
struct SlowLedger {
    granted: Arc<AtomicUsize>,
    asked: Arc<Notify>,
}

impl Ledger for SlowLedger {
    fn claim(&self, _fraction: Fraction) -> ClaimFuture {
        self.asked.notify_one();
        let granted = Arc::clone(&self.granted);
        ClaimFuture::wait(async move {
            sleep(MIN).await;
            granted.fetch_add(1, Ordering::Relaxed);
            Ok(Claim::Granted)
        })
    }

    fn left(&self) {}

    fn undo(&self) {
        self.granted.fetch_sub(1, Ordering::Relaxed);
    }

    fn next_slot(&self, _ahead: usize, _fraction: Fraction) -> Option<Instant> {
        None
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_ledger_delays_dispatches_and_a_cancelled_claim_takes_nothing() {
    let ledger = Arc::new(SlowLedger::default());
    let granted = Arc::clone(&ledger.granted);
    let asked = Arc::clone(&ledger.asked);
    let gate = Gate::with_ledgers(Pacing::new(), vec![ledger], StdRng::seed_from_u64(7));
    let start = Instant::now();
    let mut cancelled = JoinSet::new();
    cancelled.spawn(gate.acquire(None));
    asked.notified().await;
    let mut turn = JoinSet::new();
    turn.spawn(gate.acquire(None));
    advance(MIN / 2).await;
    cancelled.abort_all();
    let _permit = joined(turn).await.unwrap();
    assert_eq!(
        start.elapsed().as_millis() / 10,
        150,
        "asked once the other had left"
    );
    assert_eq!(granted.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_connection_lost_during_a_claim_gives_the_slot_back() {
    let ledger = Arc::new(SlowLedger::default());
    let granted = Arc::clone(&ledger.granted);
    let gate = Gate::with_ledgers(Pacing::new(), vec![ledger], StdRng::seed_from_u64(7));
    let mut turn = gate.acquire(None);
    // Ready until the claim is granted, then not for a second.
    struct Flaky(Instant, Option<std::pin::Pin<Box<Sleep>>>);
    impl Readiness for Flaky {
        type Error = Infallible;

        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            if self.0.elapsed() < MIN / 2 || self.0.elapsed() >= 2 * MIN {
                return Poll::Ready(Ok(()));
            }
            let sleep = self.1.get_or_insert_with(|| Box::pin(sleep(MIN)));
            std::future::Future::poll(sleep.as_mut(), cx).map(Ok)
        }

        fn release(&mut self) {}
    }
    let mut flaky = Flaky(Instant::now(), None);
    let start = Instant::now();
    let permit = poll_fn(|cx| turn.poll_with(cx, &mut flaky)).await;
    assert_eq!(
        start.elapsed().as_secs(),
        3,
        "one second more to connect, one to claim again"
    );
    assert_eq!(granted.load(Ordering::Relaxed), 1);
    drop(permit);
}

/// A service whose calls are not processed as often as `fails` says.
#[derive(Clone)]
struct Upstream {
    fails: Arc<AtomicUsize>,
    calls: Arc<std::sync::Mutex<Vec<Instant>>>,
}

impl Service<Request<()>> for Upstream {
    type Response = Response<Empty<&'static [u8]>>;
    type Error = BoxError;
    type Future = std::future::Ready<Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: Request<()>) -> Self::Future {
        self.calls.lock().unwrap().push(Instant::now());
        let fails = self.fails.load(Ordering::Relaxed);
        std::future::ready(if fails == 0 {
            Ok(Response::new(Empty::new()))
        } else {
            self.fails.fetch_sub(1, Ordering::Relaxed);
            Err(NotSent(NotProcessed(Stale.into()).into()).into())
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_not_processed_is_sent_again_twice_each_time_in_its_turn() {
    for (fails, calls, answered) in [(1, 2, true), (2, 3, true), (3, 3, false)] {
        let gate = gate(Pacing::new().min_interval(MIN));
        let upstream = Upstream {
            fails: Arc::new(AtomicUsize::new(fails)),
            calls: Arc::default(),
        };
        let outcome = JitterThrottleLayer::new(gate.clone())
            .layer(upstream.clone())
            .oneshot(Request::new(()))
            .await;
        let at = upstream.calls.lock().unwrap().clone();
        assert_eq!(at.len(), calls);
        assert!(at.windows(2).all(|pair| pair[1] - pair[0] >= MIN), "{at:?}");
        match outcome {
            Ok(_) => assert!(answered),
            Err(error) => {
                assert!(!answered);
                assert!(NotSent::in_chain(&*error).is_none(), "sent again by nobody");
            }
        }
        assert_eq!((gate.waiting(), gate.in_flight()), (0, 0));
    }
}
