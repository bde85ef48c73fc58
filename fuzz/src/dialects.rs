//! The verdict on a response. Input: a status, headers, an empty line, the body.

use std::{
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use http::StatusCode;
use pacegate::{
    config::{self, ConfigSource},
    dialect::DialectClassifier,
};
use pacegate_layers::retry_on_429::{Classify, PeekedResponse, Verdict};

use super::input;

/// A month, and an hour by which a clock was set back.
const LONGEST: Duration = Duration::from_secs(31 * 86_400 + 3_600);

/// The dialects of all presets.
pub(super) static ALL: LazyLock<Vec<DialectClassifier>> = LazyLock::new(|| {
    let presets = [
        "coding-plan",
        "dashscope",
        "local",
        "openai",
        "openrouter",
        "qwen-oauth",
    ];
    presets.into_iter().map(classifier).collect()
});

fn classifier(preset: &str) -> DialectClassifier {
    let env = |name: &str| match name {
        "HOME" => Some("/nonexistent".to_owned()),
        _ => Some("0123456789abcdef0123456789abcdef".to_owned()),
    };
    let mut source = ConfigSource::new(&env);
    source.preset = Some(preset.to_owned());
    let config = config::load(&source).unwrap().config;
    let noon = || SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_435_200);
    DialectClassifier::with_clock(&config.upstreams[0].dialect, noon)
}

/// A verdict depends on the response alone; only inspected statuses have one; a reset is near.
pub fn run(input: &[u8]) {
    let (status, rest) = input::first_line(input);
    let status = StatusCode::from_bytes(status.trim_ascii()).unwrap_or(StatusCode::OK);
    let (headers, body) = input::message(rest);
    let answer = PeekedResponse {
        status,
        headers: &headers,
        body,
    };
    for classifier in &*ALL {
        let verdict = classifier.classify(&answer);
        assert_eq!(verdict, classifier.classify(&answer));
        if !status.is_success() && !classifier.inspects_status(status) {
            assert_eq!(verdict, Verdict::Pass);
        }
        if let Verdict::Exhausted { reset: Some(reset) } = verdict {
            assert!(reset <= LONGEST, "{reset:?}");
        }
    }
}
