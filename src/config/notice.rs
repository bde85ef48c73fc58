//! Settings of a valid config that have less effect than they seem to.

use super::{Config, LayerName, Upstream};

/// A setting that has less effect than it seems to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The key, such as `upstream[0].jitter-throttle.quotas`.
    pub path: String,
    /// A sentence without a full stop.
    pub text: String,
}

/// The notices about `config`. `rearranged` is the first upstream whose layers run in another order
/// than listed.
pub(super) fn notices(config: &Config, rearranged: Option<usize>) -> Vec<Notice> {
    let counts = |upstream: &Upstream| {
        let throttle = &upstream.jitter_throttle;
        upstream.pipeline.contains(&LayerName::JitterThrottle) && !throttle.quotas.is_empty()
    };
    let without_home = config.state_dir.is_none();
    let uncounted = config
        .upstreams
        .iter()
        .enumerate()
        .filter(|(_, upstream)| without_home && counts(upstream))
        .map(|(index, _)| Notice {
            path: format!("upstream[{index}].jitter-throttle.quotas"),
            text: "counted in memory only, so a restart forgets them; set state-dir".into(),
        });
    rearranged
        .map(fixed_order)
        .into_iter()
        .chain(uncounted)
        .collect()
}

/// Given once, for the first upstream: it is the same for all.
fn fixed_order(upstream: usize) -> Notice {
    let layers = LayerName::ALL.map(LayerName::name).join(", ");
    Notice {
        path: format!("upstream[{upstream}].pipeline"),
        text: format!(
            "the order of this list is no longer used; layers now run in one fixed order: {layers}"
        ),
    }
}
