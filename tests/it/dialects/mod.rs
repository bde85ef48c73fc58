//! The dialects: every sentence that a provider is known to say about a limit, and what it means.

// Always so here; it tells clippy that helpers of tests may unwrap as tests do.
#![cfg(test)]

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use pacegate::{
    config::{self, ConfigSource, Dialect},
    dialect::DialectClassifier,
};
use pacegate_layers::{
    pacing::Recovery,
    retry_on_429::{Classify, PeekedResponse, Verdict},
};
use serde_json::{Value, json};

mod coding_plan;
mod dashscope;
mod gateway;
mod local;
mod openai;
mod openrouter;
mod properties;
mod qwen_oauth;

/// An answer of some upstream's.
struct Said {
    status: u16,
    headers: HeaderMap,
    body: String,
}

const PASS: Verdict = Verdict::Pass;
const RETRY: Verdict = Verdict::RETRY;
const RAMP: Verdict = retry(Recovery::Ramp);
const FEWER_AT_ONCE: Verdict = retry(Recovery::FewerAtOnce);

/// Used up, and nobody knows until when.
const USED_UP: Verdict = Verdict::Exhausted { reset: None };

// === impl Said ===

impl Said {
    fn new(status: u16, body: impl ToString) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            body: body.to_string(),
        }
    }

    fn header(mut self, name: &'static str, value: &'static str) -> Self {
        let name = HeaderName::from_static(name);
        self.headers.insert(name, HeaderValue::from_static(value));
        self
    }

    /// What it means in the dialect `name`.
    fn in_dialect(&self, name: &str) -> Verdict {
        let dialect = preset_dialect(name);
        let classifier = DialectClassifier::with_clock(&dialect, monday);
        let status = StatusCode::from_u16(self.status).unwrap();
        let read = if status.is_success() {
            classifier.inspects_streams()
        } else {
            classifier.inspects_status(status)
        };
        if !read {
            return Verdict::Pass;
        }
        classifier.classify(&PeekedResponse {
            status,
            headers: &self.headers,
            body: self.body.as_bytes(),
        })
    }
}

/// OpenAI's shape.
fn compatible(status: u16, code: &str, message: &str) -> Said {
    let error = json!({ "message": message, "type": code, "param": null, "code": code });
    Said::new(status, json!({ "error": error, "request_id": "0a1b" }))
}

/// DashScope's own shape; a message may be null.
fn native(status: u16, code: &str, message: impl Into<Value>) -> Said {
    let body = json!({ "code": code, "message": message.into(), "request_id": "0a1b" });
    Said::new(status, body)
}

/// The same error as the first event of a stream, as DashScope sends it.
fn as_event(said: &Said) -> Said {
    let Said { status, body, .. } = said;
    Said::new(
        200,
        format!("id:1\nevent:error\n:HTTP_STATUS/{status}\ndata:{body}\n\n"),
    )
}

const fn retry(recovery: Recovery) -> Verdict {
    Verdict::Retry {
        recovery,
        at_least: Duration::ZERO,
    }
}

fn exhausted_for(hours: u64) -> Verdict {
    let reset = Some(Duration::from_secs(hours * 3600));
    Verdict::Exhausted { reset }
}

/// Monday noon, which is 20:00 in Shanghai and 04:00 in Los Angeles.
fn monday() -> SystemTime {
    httpdate::parse_http_date("Mon, 23 Nov 2026 12:00:00 GMT").unwrap()
}

fn preset_dialect(name: &str) -> Dialect {
    let text = format!("[[upstream]]\npreset = \"local\"\ndialect = \"{name}\"\n");
    dialect_of(&text)
}

/// The dialect of the first upstream in the config `text`.
fn dialect_of(text: &str) -> Dialect {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("pacegate.toml");
    fs::write(&path, text).unwrap();
    let env = |name: &str| match name {
        "HOME" => Some(home.path().display().to_string()),
        _ => Some("k".to_owned()).filter(|_| name.ends_with("_API_KEY")),
    };
    let mut source = ConfigSource::new(&env);
    source.config = Some(path);
    config::load(&source)
        .unwrap()
        .config
        .upstreams
        .remove(0)
        .dialect
}

/// The names of all dialects.
fn names() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/dialects");
    let files = fs::read_dir(folder).unwrap();
    files
        .map(|file| {
            let path = file.unwrap().path();
            path.file_stem().unwrap().to_str().unwrap().to_owned()
        })
        .collect()
}

#[test]
fn every_dialect_but_the_local_one_reads_a_400_that_speaks_of_a_rate() {
    for name in names() {
        let said = compatible(400, "invalid_request_error", "Rate limit exceeded");
        let verdict = if name == "local" { PASS } else { RETRY };
        assert_eq!(said.in_dialect(&name), verdict, "{name}");
    }
}

#[test]
fn an_unknown_429_is_worth_a_retry_everywhere() {
    for name in names() {
        for body in ["", "null", "<h1>Too many</h1>", "{\"oops\":"] {
            assert_eq!(Said::new(429, body).in_dialect(&name), RETRY, "{name}");
        }
    }
}

#[test]
fn a_503_that_names_a_time_is_worth_a_retry_everywhere() {
    for name in names() {
        let busy = || compatible(503, "service_unavailable", "The engine is overloaded");
        let named = busy().header("retry-after", "3");
        assert_eq!(named.in_dialect(&name), RETRY, "{name}");
        let unnamed = if name == "local" { RETRY } else { PASS };
        assert_eq!(busy().in_dialect(&name), unnamed, "{name}");
    }
}

#[test]
fn any_other_error_passes_everywhere() {
    for name in names() {
        for status in [400, 401, 403, 404, 409, 413, 422, 500, 502, 504, 529] {
            let said = compatible(status, "invalid_request_error", "It cannot be");
            assert_eq!(said.in_dialect(&name), PASS, "{name} {status}");
        }
    }
}
