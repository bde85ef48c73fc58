//! How long to wait after a connection that was never made.

use std::time::Duration;

use rand::{Rng, RngExt};

/// Decorrelated jitter: each wait is drawn between the shortest and three times the one before, so
/// that clients which failed together do not come back together.
#[derive(Debug)]
pub(super) struct Backoff {
    previous: Duration,
}

/// Long enough for a server that restarts to be back, short enough not to be felt.
const SHORTEST: Duration = Duration::from_millis(500);

/// Beyond this a person would rather see the error.
const LONGEST: Duration = Duration::from_secs(20);

impl Backoff {
    pub(super) fn new() -> Self {
        Self { previous: SHORTEST }
    }

    pub(super) fn next(&mut self, rng: &mut impl Rng) -> Duration {
        self.previous = rng.random_range(SHORTEST..=self.previous * 3).min(LONGEST);
        self.previous
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn grows_but_stays_within_its_bounds() {
        let mut rng = StdRng::seed_from_u64(3);
        let mut longest = Duration::ZERO;
        for _ in 0..100 {
            let mut backoff = Backoff::new();
            let first = backoff.next(&mut rng);
            assert!((SHORTEST..=3 * SHORTEST).contains(&first));
            for _ in 0..20 {
                let wait = backoff.next(&mut rng);
                assert!((SHORTEST..=LONGEST).contains(&wait));
                longest = longest.max(wait);
            }
        }
        assert_eq!(longest, LONGEST);
    }
}
