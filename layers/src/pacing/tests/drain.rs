//! Refusals by a gate that drains.

use tokio_test::{assert_pending, task};

use super::*;

fn slow_gate() -> Gate {
    gate(Pacing::new().min_interval(Duration::from_secs(60)))
}

#[tokio::test(start_paused = true)]
async fn every_waiter_is_refused_at_once() {
    let gate = slow_gate();
    drop(gate.acquire(None).await.unwrap());
    let mut waiters: Vec<_> = (0..3).map(|_| task::spawn(gate.acquire(None))).collect();
    for waiter in &mut waiters {
        assert_pending!(waiter.poll());
    }
    let start = Instant::now();
    gate.drain();
    for waiter in waiters {
        assert_eq!(refusal(waiter.await), Refused::Draining);
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(gate.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_has_to_queue_is_refused() {
    let gate = slow_gate();
    let context = RequestContext::new();
    drop(gate.acquire(Some(context.clone())).await.unwrap());
    gate.drain();
    let again = gate.acquire(Some(context)).await;
    assert_eq!(refusal(again), Refused::Draining);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_need_not_wait_still_leaves() {
    let gate = slow_gate();
    gate.drain();
    gate.acquire(None).await.unwrap();
    assert_eq!(gate.dispatched(), 1);
}
