//! The order in which requests leave.

use tokio_test::{assert_pending, task};

use super::*;
use crate::context::Session;

#[tokio::test(start_paused = true)]
async fn a_retry_goes_first_and_is_not_refused_by_a_full_queue() {
    let gate = gate(Pacing::new().min_interval(MIN).max_queue(2));
    let context = RequestContext::new();
    gate.acquire(Some(context.clone())).await.unwrap();
    let mut others: Vec<_> = (0..2).map(|_| task::spawn(gate.acquire(None))).collect();
    for turn in &mut others {
        assert_pending!(turn.poll());
    }
    close(&gate, Instant::now() + Duration::from_secs(60));

    let mut again = task::spawn(gate.acquire(Some(context.clone())));
    assert_pending!(again.poll());
    let _permit = again.await.unwrap();
    assert_eq!(
        gate.waiting(),
        2,
        "the retry left before those that came later"
    );
    assert_eq!(context.queued(), Duration::from_secs(60));
}

#[tokio::test(start_paused = true)]
async fn each_session_leaves_once_per_round() {
    let gate = gate(Pacing::new().min_interval(MIN));
    gate.acquire(None).await.unwrap();
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
            let _permit = gate
                .acquire(Some(RequestContext::of(session)))
                .await
                .unwrap();
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
