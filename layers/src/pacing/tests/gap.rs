//! The gap between two dispatches.

use tokio::time::advance;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_lone_request_does_not_wait() {
    let gate = gate(reference());
    for _ in 0..3 {
        let before = Instant::now();
        gate.acquire(None).await.unwrap();
        assert_eq!(before.elapsed(), Duration::ZERO);
        advance(Duration::from_secs(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn with_idle_jitter_even_a_lone_request_waits() {
    let gate = gate(reference().idle_jitter(true));
    let before = Instant::now();
    gate.acquire(None).await.unwrap();
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
