//! Rolling windows: exact up to 512 requests, and small in the file above.

use pacegate_layers::pacing::Window;
use proptest::{collection::vec, prelude::*};
use tokio::runtime;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_window_that_lives_as_long_as_its_process_is_exact(requests in 1..9_usize, steps in vec((0..40_000_u64, 0..20_usize), 1..80)) {
        let runtime = runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(async {
            let machine = Machine::at("2026-04-15T12:00:00Z");
            let quota = window(requests, 60);
            let exact = Window::new(quota.requests, Duration::from_secs(60));
            let ledger = QuotaLedger::open("mine", &[quota], None, machine.wall()).unwrap();
            for (micros, ahead) in steps {
                advance(Duration::from_micros(micros * 997)).await;
                let at = |room: Option<Instant>| room.unwrap_or_else(Instant::now);
                let (ours, theirs) = (at(ledger.next_slot(ahead, Fraction::WHOLE)), at(exact.next_slot(ahead, Fraction::WHOLE)));
                let late = ours.duration_since(theirs);
                assert!(ours >= theirs && late <= Duration::from_millis(2), "{late:?}");
                if theirs_has_room(&exact) && ledger.has_room() {
                    ledger.record();
                    let _granted = exact.claim(Fraction::WHOLE);
                    exact.left();
                }
            }
        });
    }
}

fn theirs_has_room(window: &Window) -> bool {
    window.next_slot(0, Fraction::WHOLE).is_none()
}

#[tokio::test(start_paused = true)]
async fn a_large_window_fits_into_a_small_file_and_still_holds() {
    let machine = Machine::at("2026-04-15T12:00:00Z");
    let quotas = [window(6000, 5 * 3600)];
    let mut ledger = machine.open(&quotas);
    let mut spent: Vec<Instant> = Vec::new();
    // At a steady rate until it is full, then as fast as it allows.
    for turn in 0..9000 {
        if turn < 6000 {
            advance(Duration::from_secs(1 + turn % 3)).await;
        }
        if turn % 1000 == 0 {
            drop(ledger);
            ledger = machine.open(&quotas);
        }
        if let Some(room) = ledger.next_slot(0, Fraction::WHOLE) {
            sleep_until(room).await;
        }
        ledger.record();
        spent.push(Instant::now());
    }
    let per = Duration::from_secs(5 * 3600);
    for pair in spent.windows(6001) {
        let apart = pair[6000] - pair[0];
        assert!(apart >= per, "{apart:?}");
    }
    let length = fs::metadata(machine.file()).unwrap().len();
    assert!(length < 8 * 1024, "{length} bytes");

    let exact = [window(512, 3600)];
    drop(ledger);
    let ledger = machine.open(&exact);
    for _ in 0..512 {
        ledger.record();
        advance(Duration::from_millis(5)).await;
    }
    let length = fs::metadata(machine.file()).unwrap().len();
    assert!(length < 16 * 1024, "{length} bytes");
}
