//! What happens to the machine meanwhile.

use std::time::Duration;

use rand::{RngExt, rngs::StdRng};

use super::{Request, pick};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Upset {
    pub(crate) at: Duration,
    pub(crate) act: Act,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    /// The process is killed in the very poll of its next dispatch, and started so much later.
    KillAtDispatch(Duration),
    /// The process is killed, and started so much later.
    Restart(Duration),
    /// The wall clock is set by so many milliseconds.
    Set(i64),
}

// === impl Upset ===

impl Upset {
    /// A few, most of them while there is something to do.
    pub(super) fn draw_all(rng: &mut StdRng, requests: &[Request]) -> Vec<Self> {
        let mut upsets: Vec<_> = (0..rng.random_range(0..7))
            .map(|_| {
                let near = pick(rng, requests).arrives;
                let after = *pick(rng, &[3, 60, 60, 4000]);
                Self {
                    at: near + Duration::from_millis(rng.random_range(0..after * 1000)),
                    act: Act::draw(rng),
                }
            })
            .collect();
        upsets.sort_by_key(|upset| upset.at);
        upsets
    }
}

// === impl Act ===

impl Act {
    fn draw(rng: &mut StdRng) -> Self {
        let most = *pick(rng, &[2000, 60_000, 7_200_000, 172_800_000]);
        let millis = rng.random_range(0..most);
        // Time does not pass in whole ones.
        let down = Duration::from_micros(millis * 1000 + rng.random_range(0..1000));
        match rng.random_range(0..5) {
            0 => Self::KillAtDispatch(down),
            1 | 2 => Self::Restart(down),
            _ => {
                let by = i64::try_from(millis).unwrap();
                Self::Set(if rng.random_bool(0.5) { -by } else { by })
            }
        }
    }
}
