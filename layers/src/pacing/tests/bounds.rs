//! The length of the queue, the longest wait and the queue position.

use tokio::time::advance;
use tokio_test::{assert_pending, task};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_at_once_with_an_estimate_and_uses_no_slot() {
    let gate = gate(Pacing::new().min_interval(MIN).max_queue(2));
    gate.acquire(None).await.unwrap();
    let mut waiting: Vec<_> = (0..2).map(|_| task::spawn(gate.acquire(None))).collect();
    for turn in &mut waiting {
        assert_pending!(turn.poll());
    }
    let refused = refusal(gate.acquire(None).await);
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
async fn a_queue_limit_of_zero_passes_only_requests_that_need_not_wait() {
    let gate = gate(Pacing::new().min_interval(MIN).max_queue(0));
    gate.acquire(None).await.unwrap();
    assert!(matches!(
        refusal(gate.acquire(None).await),
        Refused::QueueFull { waiting: 0, .. }
    ));
    advance(MIN).await;
    gate.acquire(None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn too_long_a_wait_is_refused_at_once() {
    let gate = gate(Pacing::new().max_wait(Duration::from_secs(5)));
    close(&gate, Instant::now() + Duration::from_secs(6));
    let before = Instant::now();
    let refused = refusal(gate.acquire(None).await);
    assert_eq!(
        refused,
        Refused::WouldWaitTooLong {
            estimate: Duration::from_secs(6)
        }
    );
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn reports_the_position_of_a_waiting_request() {
    let gate = gate(Pacing::new().min_interval(MIN));
    gate.acquire(None).await.unwrap();
    let mut turns = Vec::new();
    for place in 1..4 {
        let context = RequestContext::new();
        let mut turn = task::spawn(gate.acquire(Some(context.clone())));
        assert_pending!(turn.poll());
        turns.push(turn);
        let eta = MIN * u32::try_from(place).unwrap();
        assert_eq!(
            gate.queue_position(&context),
            Some(QueuePosition {
                place,
                eta,
                reason: WaitReason::Gap
            })
        );
    }
    assert_eq!(gate.queue_position(&RequestContext::new()), None);
}
