//! A random life of an account.

use std::{num::NonZeroUsize, time::Duration};

use pacegate::config::Quota;
use pacegate_layers::pacing::{Busy, Order, Pacing};
use rand::{RngExt, SeedableRng, rngs::StdRng};

mod place;
mod request;
mod upset;

pub(crate) use request::{Answer, Attempt, Request};
pub(crate) use upset::{Act, Upset};

use place::Place;

/// Everything that is decided before it begins.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    /// What the wall clock shows when it begins, in microseconds since 1970.
    pub(crate) begins: i64,
    pub(crate) min_interval: Duration,
    pub(crate) jitter: (Duration, Duration),
    pub(crate) busy: Option<(NonZeroUsize, Duration, (Duration, Duration))>,
    pub(crate) quotas: Vec<Quota>,
    /// Whether a book counts them. If not, the gate's own windows do, and nothing is upset.
    pub(crate) has_book: bool,
    pub(crate) concurrency: Option<NonZeroUsize>,
    pub(crate) max_queue: usize,
    pub(crate) max_wait: Duration,
    pub(crate) order: Order,
    pub(crate) requests: Vec<Request>,
    /// In the order in which they come.
    pub(crate) upsets: Vec<Upset>,
}

impl Scenario {
    pub(crate) fn draw(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let rng = &mut rng;
        let min_interval = *pick(rng, &[0, 200, 1000, 1000, 1000]);
        let jitter = *pick(rng, &[(0, 0), (500, 1500), (500, 1500), (0, 200)]);
        let busy = rng.random_bool(0.3).then(|| {
            let from = rng.random_range(3..20);
            (at_least_one(from), Duration::from_secs(60), ms((0, 200)))
        });
        let concurrency = rng
            .random_bool(0.5)
            .then(|| at_least_one(rng.random_range(1..9)));
        let bounded = rng.random_bool(0.3);
        let has_book = rng.random_bool(0.8);
        let place = Place::draw(rng);
        let quotas = if has_book {
            place.quotas(rng)
        } else {
            place::windows(rng)
        };
        let requests = Request::draw_all(rng, has_book);
        let upsets = if has_book {
            Upset::draw_all(rng, &requests)
        } else {
            Vec::new()
        };
        Self {
            seed,
            begins: place.begins,
            min_interval: Duration::from_millis(min_interval),
            jitter: ms(jitter),
            busy,
            quotas,
            has_book,
            concurrency,
            max_queue: if bounded {
                rng.random_range(0..20)
            } else {
                1000
            },
            max_wait: Duration::from_secs(if bounded {
                rng.random_range(5..300)
            } else {
                36_000
            }),
            order: *pick(rng, &[Order::Fair, Order::Fifo]),
            requests,
            upsets,
        }
    }

    pub(crate) fn pacing(&self) -> Pacing {
        let mut pacing = Pacing::new()
            .min_interval(self.min_interval)
            .jitter(self.jitter.0..=self.jitter.1)
            .unwrap()
            .concurrency(self.concurrency)
            .max_queue(self.max_queue)
            .max_wait(self.max_wait)
            .order(self.order);
        if let Some((from, within, jitter)) = self.busy {
            let jitter = jitter.0..=jitter.1;
            pacing = pacing
                .busy(Busy {
                    from,
                    within,
                    jitter,
                })
                .unwrap();
        }
        pacing
    }

    /// The least and the most that jitter may add to a gap.
    pub(crate) fn jitter_bounds(&self) -> (Duration, Duration) {
        let busy = self.busy.map_or(self.jitter, |(.., jitter)| jitter);
        (self.jitter.0.min(busy.0), self.jitter.1.max(busy.1))
    }
}

fn pick<'a, T>(rng: &mut StdRng, from: &'a [T]) -> &'a T {
    &from[rng.random_range(0..from.len())]
}

fn at_least_one(number: usize) -> NonZeroUsize {
    NonZeroUsize::new(number).unwrap()
}

fn ms((least, most): (u64, u64)) -> (Duration, Duration) {
    (Duration::from_millis(least), Duration::from_millis(most))
}
