//! Quotas.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_window_is_never_exceeded_and_too_long_a_wait_is_refused() {
    let window = Window::new(NonZeroUsize::new(3).unwrap(), Duration::from_secs(60));
    let gate = Gate::with_ledgers(
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
        refusal(gate.acquire(None).await),
        Refused::QuotaExhausted {
            reset: Duration::from_secs(3600)
        }
    );
}
