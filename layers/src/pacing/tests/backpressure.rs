//! Refusals by the upstream.

use tokio::time::advance;
use tokio_test::{assert_pending, assert_ready, task};

use super::*;

#[tokio::test(start_paused = true)]
async fn no_request_leaves_before_an_extended_pause_ends() {
    let gate = gate(Pacing::new());
    let start = Instant::now();
    close(&gate, start + Duration::from_secs(3));
    let mut waiting = task::spawn(gate.acquire(None));
    assert_pending!(waiting.poll());
    close(&gate, start + Duration::from_secs(5));
    waiting.await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn too_long_a_pause_refuses_all_waiters() {
    let gate = gate(Pacing::new().min_interval(MIN));
    gate.acquire(None).await.unwrap();
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let mut turn = task::spawn(gate.acquire(None));
            assert_pending!(turn.poll());
            turn
        })
        .collect();
    close(&gate, Instant::now() + Duration::from_secs(900));
    for turn in waiting {
        let estimate = Duration::from_secs(900);
        assert_eq!(refusal(turn.await), Refused::WouldWaitTooLong { estimate });
    }
    assert_eq!((gate.waiting(), gate.dispatched()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn after_a_pause_one_probe_leaves_and_the_others_wait_for_its_response() {
    let gate = gate(Pacing::new());
    let start = Instant::now();
    close(&gate, start + Duration::from_secs(3));
    let mut first = task::spawn(gate.acquire(None));
    let mut second = task::spawn(gate.acquire(None));
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
async fn a_probe_without_a_response_makes_way_for_another() {
    let gate = gate(Pacing::new());
    close(&gate, Instant::now() + Duration::from_secs(3));
    let probe = gate.acquire(None).await.unwrap();
    let mut next = task::spawn(gate.acquire(None));
    assert_pending!(next.poll());
    drop(probe);
    assert!(next.is_woken());
    let _probe = assert_ready!(next.poll()).unwrap();
    let mut third = task::spawn(gate.acquire(None));
    assert_pending!(third.poll());
}

#[tokio::test(start_paused = true)]
async fn two_refusals_in_a_row_shrink_the_window_for_five_minutes() {
    let window = || Arc::new(Window::new(NonZeroUsize::new(10).unwrap(), 60 * MIN));
    let gate = Gate::with_ledgers(Pacing::new(), vec![window()], StdRng::seed_from_u64(7));
    let context = RequestContext::new();
    // Refused, then refused again as the probe.
    gate.acquire(Some(context.clone())).await.unwrap();
    gate.refused(&context, Instant::now() + MIN, Recovery::Same);
    let probe = gate.acquire(Some(context.clone())).await.unwrap();
    gate.refused(&context, Instant::now() + MIN, Recovery::Same);
    drop(probe);
    let again = gate.acquire(Some(context)).await.unwrap();
    again.accepted();

    let opened = Instant::now();
    for _ in 0..4 {
        gate.acquire(None).await.unwrap();
    }
    assert_eq!(opened.elapsed(), Duration::ZERO, "seven of ten are free");
    gate.acquire(None).await.unwrap();
    assert!(opened.elapsed() >= 57 * MIN, "the eighth waits for a slot");
    advance(5 * 60 * MIN).await;
    let later = Instant::now();
    for _ in 0..10 {
        gate.acquire(None).await.unwrap();
    }
    assert_eq!(later.elapsed(), Duration::ZERO, "then all ten are");
}

#[tokio::test(start_paused = true)]
async fn late_refusals_of_earlier_requests_count_once() {
    let window = || Arc::new(Window::new(NonZeroUsize::new(10).unwrap(), 60 * MIN));
    let gate = Gate::with_ledgers(Pacing::new(), vec![window()], StdRng::seed_from_u64(7));
    for _ in 0..4 {
        close(&gate, Instant::now() + MIN);
    }
    let opened = Instant::now();
    for _ in 0..10 {
        gate.acquire(None).await.unwrap().accepted();
    }
    assert_eq!(opened.elapsed(), MIN, "nothing is shrunk");
}
