//! What was read and checked, but is not acted on yet.

use super::{Config, LayerName, Order, Upstream};

/// A setting without an effect in this version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The key, such as `upstream[0].jitter-throttle.order`.
    pub path: String,
    /// A sentence without a full stop.
    pub text: String,
}

/// Everything that `config` asks for in vain. Whoever builds one of these deletes its line.
pub(super) fn notices(config: &Config) -> Vec<Notice> {
    let mut notices = Vec::new();
    for (index, upstream) in config.upstreams.iter().enumerate() {
        for (key, text) in of_upstream(upstream) {
            notices.push(Notice {
                path: format!("upstream[{index}].{key}"),
                text: format!("not enforced by this version: {text}"),
            });
        }
    }
    notices
}

fn of_upstream(upstream: &Upstream) -> impl Iterator<Item = (&'static str, &'static str)> {
    let throttle = &upstream.jitter_throttle;
    let throttles = upstream.pipeline.contains(&LayerName::JitterThrottle);
    let retries = upstream.pipeline.contains(&LayerName::RetryOn429);
    [
        (
            throttles && throttle.order == Order::Fair,
            "jitter-throttle.order",
            "requests leave first come, first served",
        ),
        (
            throttles && throttle.profile == "quota",
            "jitter-throttle.profile",
            "the jitter of quota does not adapt to the load",
        ),
        (
            retries && upstream.retry_on_429.budget < 1.0,
            "retry-on-429.budget",
            "only max-retries and max-hold limit retries",
        ),
    ]
    .into_iter()
    .filter_map(|(applies, key, text)| applies.then_some((key, text)))
}
