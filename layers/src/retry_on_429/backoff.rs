//! How long to wait after a connection that was not made.

use std::time::Duration;

use rand::{Rng, RngExt};

/// Decorrelated jitter: each wait is drawn between the shortest and three times the previous one,
/// so that clients that failed together do not return together.
#[derive(Debug)]
pub(super) struct Backoff {
    previous: Duration,
}

/// Long enough for a server to restart, short enough not to be noticed.
const SHORTEST: Duration = Duration::from_millis(500);

/// A person would rather see the error than wait longer.
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
