//! Whoever paces requests: ours under some configuration, or one to compare with.

use std::{
    env,
    path::PathBuf,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use pacegate_layers::{JitterThrottleLayer, RetryOn429Layer, pacing::Gate};
use rand::{SeedableRng, rngs::StdRng};
use tokio::time::Instant;
use tower::{Layer, ServiceExt};

use super::{
    BenchError,
    governor::governor,
    limit::Limit,
    plugin::{Turns, plugin},
};
use crate::{
    config::{self, LayerName, Sample, suggestion},
    dialect::DialectClassifier,
    upstreams::{UpstreamService, boxed, pacing},
};

/// A policy by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    name: String,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Configured(Sample),
    Other(Other),
}

/// Those that pacegate is measured against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Other {
    GovernorJitter,
    Plugin,
    PluginFixed,
}

/// A policy that is ready to run, and the upstream that it is meant for.
#[derive(Clone, Debug)]
pub struct Policy {
    pub(super) name: String,
    /// What the upstream admits.
    pub(super) limits: Vec<Limit>,
    pub(super) rule: Rule,
}

#[derive(Clone, Debug)]
pub(super) enum Rule {
    Configured(Box<config::Upstream>),
    Other(Other),
}

/// A policy around an upstream.
#[derive(Debug)]
pub(super) struct Paced {
    pub(super) service: UpstreamService,
    pub(super) sent: Sent,
}

/// The policy's own word on how much it has sent.
#[derive(Debug)]
pub(super) enum Sent {
    Counted(Arc<AtomicU64>),
    Gate(Gate),
}

/// A name that no policy has.
#[derive(Debug, thiserror::Error)]
#[error("no such policy; {0} (a config file is named by its path, such as ./pacegate.toml)")]
pub struct BadPolicy(String);

const OTHERS: [(&str, Other); 3] = [
    ("plugin", Other::Plugin),
    ("plugin-fixed", Other::PluginFixed),
    ("governor-jitter", Other::GovernorJitter),
];

// === impl Choice ===

impl Choice {
    /// The policies that are shown side by side when nobody names one: those to compare with, then
    /// ours.
    pub fn defaults() -> Vec<Self> {
        let others = OTHERS.map(|(name, other)| (name, Kind::Other(other)));
        let mut profiles = config::throttle_profiles();
        // From the calm to the eager.
        profiles.reverse();
        let ours = profiles
            .into_iter()
            .map(|name| (name, Kind::Configured(Sample::Throttle(name.into()))));
        others
            .into_iter()
            .chain(ours)
            .map(|(name, kind)| Self {
                name: name.into(),
                kind,
            })
            .collect()
    }

    /// Reads what there is to read. `limits` replaces what the upstream admits, if it isn't empty.
    ///
    /// # Errors
    ///
    /// [`config::Error`] if a config file cannot be used. Secrets may be missing.
    pub fn load(&self, limits: &[Limit]) -> Result<Policy, config::Error> {
        let sample = match &self.kind {
            Kind::Configured(sample) => sample,
            Kind::Other(_) => &Sample::BuiltIn,
        };
        let mut upstreams = config::sample(sample, &variable)?.upstreams;
        let upstream = upstreams.swap_remove(0);
        let quotas = &upstream.jitter_throttle.quotas;
        Ok(Policy {
            name: self.name.clone(),
            limits: if limits.is_empty() {
                quotas.iter().map(Limit::from).collect()
            } else {
                limits.to_vec()
            },
            rule: match self.kind {
                Kind::Configured(_) => Rule::Configured(Box::new(upstream)),
                Kind::Other(other) => Rule::Other(other),
            },
        })
    }
}

/// A credentials file may lie in the home; it is not read here, so that any home does.
pub(super) fn variable(name: &str) -> Option<String> {
    env::var(name)
        .ok()
        .or_else(|| (name == "HOME").then(|| "/".into()))
}

impl FromStr for Choice {
    type Err = BadPolicy;

    fn from_str(name: &str) -> Result<Self, BadPolicy> {
        let profiles = config::throttle_profiles();
        let presets = config::presets();
        let other = OTHERS.iter().find(|(other, _)| *other == name);
        let kind = if let Some((_, other)) = other {
            Kind::Other(*other)
        } else if profiles.contains(&name) {
            Kind::Configured(Sample::Throttle(name.into()))
        } else if presets.contains(&name) {
            Kind::Configured(Sample::Preset(name.into()))
        } else if name.contains('/') || name.ends_with(".toml") {
            Kind::Configured(Sample::File(PathBuf::from(name)))
        } else {
            let others = OTHERS.iter().map(|(name, _)| *name);
            let known: Vec<_> = others.chain(profiles).chain(presets).collect();
            return Err(BadPolicy(suggestion(name, &known)));
        };
        Ok(Self {
            name: name.into(),
            kind,
        })
    }
}

// === impl Policy ===

impl Policy {
    /// Its name, as it was chosen.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Puts the policy around `upstream`, in a run that begins at `epoch`.
    pub(super) fn around(
        &self,
        upstream: UpstreamService,
        seed: u64,
        epoch: Instant,
    ) -> Result<Paced, BenchError> {
        match &self.rule {
            Rule::Configured(configured) => layered(configured, upstream, seed, epoch),
            Rule::Other(other) => Ok(other.around(upstream, seed)),
        }
    }
}

/// Those layers of the pipeline that take or give time.
fn layered(
    configured: &config::Upstream,
    upstream: UpstreamService,
    seed: u64,
    epoch: Instant,
) -> Result<Paced, BenchError> {
    let settings = &configured.jitter_throttle;
    let quotas = settings.quotas.iter().map(Limit::from);
    let quotas = quotas.map(|limit| limit.quota(epoch)).collect();
    let gate = Gate::with_ledgers(pacing(settings)?, quotas, StdRng::seed_from_u64(seed));
    let (mut service, mut sent) = counted(upstream);
    for name in configured.pipeline.iter().rev() {
        service = match name {
            LayerName::JitterThrottle => {
                sent = Sent::Gate(gate.clone());
                let mut layer = JitterThrottleLayer::new(gate.clone());
                if configured.pipeline.contains(&LayerName::RetryOn429) {
                    layer = layer.feedback_from_outside();
                }
                boxed(layer.layer(service))
            }
            LayerName::RetryOn429 => {
                let settings = &configured.retry_on_429;
                let mut layer = RetryOn429Layer::new(DialectClassifier::new(&configured.dialect))
                    .max_retries(settings.max_retries)
                    .max_hold(settings.max_hold)
                    .default_wait(settings.default_wait)
                    .budget(settings.budget)
                    .rng(StdRng::seed_from_u64(seed));
                if configured.pipeline.contains(&LayerName::JitterThrottle) {
                    layer = layer.feedback(gate.clone());
                }
                boxed(layer.layer(service))
            }
            LayerName::BearerAuth | LayerName::HeaderAlign | LayerName::TokenRefresh => continue,
        };
    }
    Ok(Paced { service, sent })
}

/// `upstream`, and how often it has been called.
pub(super) fn counted(upstream: UpstreamService) -> (UpstreamService, Sent) {
    let count = Arc::<AtomicU64>::default();
    let counting = Arc::clone(&count);
    let service = upstream.map_request(move |request: Request<Full<Bytes>>| {
        counting.fetch_add(1, Ordering::Relaxed);
        request
    });
    (UpstreamService::new(service), Sent::Counted(count))
}

// === impl Other ===

impl Other {
    pub(super) fn around(self, upstream: UpstreamService, seed: u64) -> Paced {
        let (upstream, sent) = counted(upstream);
        let rng = StdRng::seed_from_u64(seed);
        let service = match self {
            Self::GovernorJitter => governor(upstream, rng),
            Self::Plugin => plugin(upstream, Turns::Racing, rng),
            Self::PluginFixed => plugin(upstream, Turns::OneAtATime, rng),
        };
        Paced { service, sent }
    }
}

// === impl Sent ===

impl Sent {
    pub(super) fn count(&self) -> u64 {
        match self {
            Self::Counted(count) => count.load(Ordering::Relaxed),
            Self::Gate(gate) => gate.dispatched(),
        }
    }
}
