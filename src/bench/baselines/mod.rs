//! Pacing policies that pacegate is measured against.

use rand::{SeedableRng, rngs::StdRng};

use self::{
    governor::governor,
    plugin::{Turns, plugin},
};
use super::policy::{PacedService, counted};
use crate::upstreams::UpstreamService;

mod governor;
mod plugin;

/// A policy that pacegate is measured against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Baseline {
    GovernorJitter,
    Plugin,
    PluginFixed,
}

/// The baselines by their names on the command line.
pub(super) const BASELINES: [(&str, Baseline); 3] = [
    ("plugin", Baseline::Plugin),
    ("plugin-fixed", Baseline::PluginFixed),
    ("governor-jitter", Baseline::GovernorJitter),
];

// === impl Baseline ===

impl Baseline {
    pub(super) fn around(self, upstream: UpstreamService, seed: u64) -> PacedService {
        let (upstream, dispatches) = counted(upstream);
        let rng = StdRng::seed_from_u64(seed);
        let service = match self {
            Self::GovernorJitter => governor(upstream, rng),
            Self::Plugin => plugin(upstream, Turns::Racing, rng),
            Self::PluginFixed => plugin(upstream, Turns::OneAtATime, rng),
        };
        PacedService {
            service,
            dispatches,
        }
    }
}
