//! Requests that are dropped while they wait.

use tokio_test::{assert_pending, task};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_waiter_that_leaves_takes_nothing_with_it() {
    let gate = gate(Pacing::new().min_interval(MIN));
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
