//! What a config asks for and does not get, although nothing in it is wrong.

use super::{Config, LayerName, Upstream};

/// A setting that has less effect here than its words say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The key, such as `upstream[0].jitter-throttle.quotas`.
    pub path: String,
    /// A sentence without a full stop.
    pub text: String,
}

pub(super) fn notices(config: &Config) -> Vec<Notice> {
    let counts = |upstream: &Upstream| {
        let throttle = &upstream.jitter_throttle;
        upstream.pipeline.contains(&LayerName::JitterThrottle) && !throttle.quotas.is_empty()
    };
    let homeless = config.state_dir.is_none();
    config
        .upstreams
        .iter()
        .enumerate()
        .filter(|(_, upstream)| homeless && counts(upstream))
        .map(|(index, _)| Notice {
            path: format!("upstream[{index}].jitter-throttle.quotas"),
            text: "counted in memory only, so a restart forgets them; set state-dir".into(),
        })
        .collect()
}
