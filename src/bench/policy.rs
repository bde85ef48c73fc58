//! Pacing policies: pacegate's layers under some configuration, or a baseline.

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
use http_body_util::{BodyExt, Full};
use pacegate_layers::{
    JitterThrottleLayer, RetryOn429Layer, error::BoxError, pacing::Gate, retry_on_429::RetryBudget,
};
use rand::{SeedableRng, rngs::StdRng};
use tokio::time::Instant;
use tower::{Layer, ServiceExt};

use super::{
    BenchError,
    baselines::{BASELINES, Baseline},
    limit::Limit,
};
use crate::{
    config::{self, LayerName, Sample, suggestion},
    dialect::DialectClassifier,
    upstreams::{HttpService, UpstreamService, pacing},
};

/// A policy that is chosen by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyChoice {
    name: String,
    kind: PolicyKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum PolicyKind {
    Configured(Sample),
    Baseline(Baseline),
}

/// A policy that is ready to run, and the limits of its upstream.
#[derive(Clone, Debug)]
pub struct Policy {
    pub(super) name: String,
    /// What the upstream admits.
    pub(super) limits: Vec<Limit>,
    pub(super) pacer: Pacer,
}

#[derive(Clone, Debug)]
pub(super) enum Pacer {
    Configured(Box<config::Upstream>),
    Baseline(Baseline),
}

/// A policy around an upstream.
#[derive(Debug)]
pub(super) struct PacedService {
    pub(super) service: UpstreamService,
    pub(super) dispatches: DispatchCount,
}

/// Counts the requests that a policy has dispatched.
#[derive(Debug)]
pub(super) enum DispatchCount {
    Counted(Arc<AtomicU64>),
    Gate(Gate),
}

/// No policy has this name.
#[derive(Debug, thiserror::Error)]
#[error("no such policy; {0} (a config file is named by its path, such as ./pacegate.toml)")]
pub struct BadPolicy(String);

// === impl PolicyChoice ===

impl PolicyChoice {
    /// The policies that run when none is chosen: the baselines, then pacegate's profiles.
    pub fn defaults() -> Vec<Self> {
        let baselines = BASELINES.map(|(name, baseline)| (name, PolicyKind::Baseline(baseline)));
        let mut profiles = config::throttle_profiles();
        // From the slowest to the fastest.
        profiles.reverse();
        let ours = profiles
            .into_iter()
            .map(|name| (name, PolicyKind::Configured(Sample::Throttle(name.into()))));
        baselines
            .into_iter()
            .chain(ours)
            .map(|(name, kind)| Self {
                name: name.into(),
                kind,
            })
            .collect()
    }

    /// Reads the configuration. `limits`, unless empty, replaces the limits of the upstream.
    ///
    /// # Errors
    ///
    /// [`config::Error`] if a config file cannot be used. Secrets may be missing.
    pub fn load(&self, limits: &[Limit]) -> Result<Policy, config::Error> {
        let sample = match &self.kind {
            PolicyKind::Configured(sample) => sample,
            PolicyKind::Baseline(_) => &Sample::BuiltIn,
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
            pacer: match self.kind {
                PolicyKind::Configured(_) => Pacer::Configured(Box::new(upstream)),
                PolicyKind::Baseline(baseline) => Pacer::Baseline(baseline),
            },
        })
    }
}

/// The environment. Without `HOME`, `/` stands in, because no credentials file is read.
pub(super) fn variable(name: &str) -> Option<String> {
    env::var(name)
        .ok()
        .or_else(|| (name == "HOME").then(|| "/".into()))
}

impl FromStr for PolicyChoice {
    type Err = BadPolicy;

    fn from_str(name: &str) -> Result<Self, BadPolicy> {
        let profiles = config::throttle_profiles();
        let presets = config::presets();
        let baseline = BASELINES.iter().find(|(known, _)| *known == name);
        let kind = if let Some((_, baseline)) = baseline {
            PolicyKind::Baseline(*baseline)
        } else if profiles.contains(&name) {
            PolicyKind::Configured(Sample::Throttle(name.into()))
        } else if presets.contains(&name) {
            PolicyKind::Configured(Sample::Preset(name.into()))
        } else if name.contains('/') || name.ends_with(".toml") {
            PolicyKind::Configured(Sample::File(PathBuf::from(name)))
        } else {
            let baselines = BASELINES.iter().map(|(name, _)| *name);
            let known: Vec<_> = baselines.chain(profiles).chain(presets).collect();
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
    ) -> Result<PacedService, BenchError> {
        match &self.pacer {
            Pacer::Configured(configured) => layered(configured, upstream, seed, epoch),
            Pacer::Baseline(baseline) => Ok(baseline.around(upstream, seed)),
        }
    }
}

/// The layers of the pipeline that affect timing.
fn layered(
    configured: &config::Upstream,
    upstream: UpstreamService,
    seed: u64,
    epoch: Instant,
) -> Result<PacedService, BenchError> {
    let settings = &configured.jitter_throttle;
    let quotas = settings.quotas.iter().map(Limit::from);
    let quotas = quotas.map(|limit| limit.quota(epoch)).collect();
    let gate = Gate::with_ledgers(pacing(settings)?, quotas, StdRng::seed_from_u64(seed));
    let (mut service, mut dispatches) = counted(upstream);
    for name in configured.pipeline.iter().rev() {
        service = match name {
            LayerName::JitterThrottle => {
                dispatches = DispatchCount::Gate(gate.clone());
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
                    .budget(RetryBudget::new(settings.budget))
                    .rng(StdRng::seed_from_u64(seed));
                if configured.pipeline.contains(&LayerName::JitterThrottle) {
                    layer = layer.feedback(gate.clone());
                }
                boxed(layer.layer(service))
            }
            LayerName::BearerAuth | LayerName::HeaderAlign | LayerName::TokenRefresh => continue,
        };
    }
    Ok(PacedService {
        service,
        dispatches,
    })
}

/// `upstream`, and the number of calls to it.
pub(super) fn counted(upstream: UpstreamService) -> (UpstreamService, DispatchCount) {
    let count = Arc::<AtomicU64>::default();
    let counting = Arc::clone(&count);
    let service = upstream.map_request(move |request: Request<Full<Bytes>>| {
        counting.fetch_add(1, Ordering::Relaxed);
        request
    });
    (UpstreamService::new(service), DispatchCount::Counted(count))
}

// === impl DispatchCount ===

impl DispatchCount {
    pub(super) fn count(&self) -> u64 {
        match self {
            Self::Counted(count) => count.load(Ordering::Relaxed),
            Self::Gate(gate) => gate.dispatched(),
        }
    }
}

/// Boxes a service and the bodies of its responses.
pub(super) fn boxed<S, B>(service: S) -> UpstreamService
where
    S: HttpService<B>,
    B: http_body::Body<Data = Bytes, Error = BoxError> + Send + 'static,
{
    UpstreamService::new(service.map_response(|response| response.map(BodyExt::boxed_unsync)))
}
