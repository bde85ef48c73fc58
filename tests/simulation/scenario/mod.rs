//! A random day.

use std::{num::NonZeroUsize, time::Duration};

use pacegate_layers::jitter_throttle::{Busy, Order, Pacing};
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// Everything that is decided before the day begins.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    pub(crate) min_interval: Duration,
    pub(crate) jitter: (Duration, Duration),
    pub(crate) busy: Option<(NonZeroUsize, Duration, (Duration, Duration))>,
    pub(crate) windows: Vec<(NonZeroUsize, Duration)>,
    pub(crate) concurrency: Option<NonZeroUsize>,
    pub(crate) max_queue: usize,
    pub(crate) max_wait: Duration,
    pub(crate) order: Order,
    pub(crate) requests: Vec<Request>,
}

/// One request and what becomes of each of its attempts.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) arrives: Duration,
    pub(crate) session: usize,
    pub(crate) is_child: bool,
    /// Leaves this long after it has come, wherever it is then.
    pub(crate) gives_up: Option<Duration>,
    pub(crate) attempts: Vec<Attempt>,
}

#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    /// From dispatch to the head of the answer.
    pub(crate) latency: Duration,
    pub(crate) answer: Answer,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    /// Never reached the upstream.
    Lost,
    /// "Slow down" for so long.
    Refused(Duration),
    /// Taken, and streamed for so long.
    Taken(Duration),
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
        let windows = match rng.random_range(0..3) {
            0 => Vec::new(),
            1 => vec![(
                at_least_one(rng.random_range(5..60)),
                Duration::from_secs(60),
            )],
            _ => vec![
                (
                    at_least_one(rng.random_range(3..10)),
                    Duration::from_secs(10),
                ),
                (
                    at_least_one(rng.random_range(10..58)),
                    Duration::from_secs(60),
                ),
            ],
        };
        let concurrency = rng
            .random_bool(0.5)
            .then(|| at_least_one(rng.random_range(1..9)));
        let bounded = rng.random_bool(0.3);
        let sessions = rng.random_range(1..7);
        let giving_up = rng.random_range(0.0..0.4);
        let refusing = rng.random_range(0.0..0.15);
        let mut at = 0;
        let spread = *pick(rng, &[0, 0, 300, 2000, 5000]);
        let count = rng.random_range(1..=160);
        let requests = (0..count)
            .map(|_| {
                // All at once, one by one, or in bursts.
                if spread > 0 && rng.random_bool(0.5) {
                    at += rng.random_range(0..spread);
                }
                Request {
                    arrives: Duration::from_millis(at),
                    session: rng.random_range(0..sessions),
                    is_child: rng.random_bool(0.3),
                    gives_up: rng
                        .random_bool(giving_up)
                        .then(|| Duration::from_millis(rng.random_range(0..120_000))),
                    attempts: (0..3).map(|_| Attempt::draw(rng, refusing)).collect(),
                }
            })
            .collect();
        Self {
            seed,
            min_interval: Duration::from_millis(min_interval),
            jitter: ms(jitter),
            busy,
            windows,
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

impl Attempt {
    fn draw(rng: &mut StdRng, refusing: f64) -> Self {
        let answer = if rng.random_bool(refusing) {
            Answer::Refused(Duration::from_secs(rng.random_range(1..=90)))
        } else if rng.random_bool(0.02) {
            Answer::Lost
        } else {
            Answer::Taken(Duration::from_millis(rng.random_range(0..8000)))
        };
        Self {
            latency: Duration::from_millis(rng.random_range(1..3000)),
            answer,
        }
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
