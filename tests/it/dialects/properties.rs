//! What holds for whatever an upstream sends.

use std::{sync::LazyLock, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use pacegate::dialect::DialectClassifier;
use pacegate_layers::retry_on_429::{Classify, PeekedResponse};
use proptest::{collection::vec, prelude::*, sample::select};
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;

use super::{monday, names, preset_dialect};

/// As much as the layer reads of an error.
const LONGEST: usize = 8 * 1024;

/// Words that rules look for, so that generated documents come near them.
const WORDS: [&str; 14] = [
    "error",
    "code",
    "type",
    "status",
    "message",
    "metadata",
    "limit_source",
    "details",
    "violations",
    "quotaId",
    "insufficient_quota",
    "RESOURCE_EXHAUSTED",
    "PerDay",
    "free allocated quota exceeded",
];

static ALL: LazyLock<Vec<DialectClassifier>> = LazyLock::new(|| {
    let names = names();
    let dialects = names.iter().map(|name| preset_dialect(name));
    dialects
        .map(|dialect| DialectClassifier::with_clock(&dialect, monday))
        .collect()
});

fn classify(classifiers: &[DialectClassifier], status: u16, headers: &HeaderMap, body: &[u8]) {
    let answer = PeekedResponse {
        status: StatusCode::from_u16(status).unwrap(),
        headers,
        body,
    };
    for classifier in classifiers {
        let _verdict = classifier.classify(&answer);
    }
}

fn documents() -> impl Strategy<Value = Value> {
    let word = prop_oneof![select(&WORDS[..]).prop_map(str::to_owned), "\\PC{0,8}"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (400u16..600).prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 6, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            vec((word.clone(), inner), 0..6)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

fn bodies() -> impl Strategy<Value = Vec<u8>> {
    let event = "(id:1\n)?(event:error\n|: x\n\n|\r\n)?(:HTTP_STATUS/[0-9]{0,4}\n)?data: ?";
    prop_oneof![
        vec(any::<u8>(), 0..=LONGEST),
        "\\PC{0,400}".prop_map(String::into_bytes),
        (event, documents()).prop_map(|(event, document)| format!("{event}{document}\n\n").into()),
        (documents(), 0..200usize).prop_map(|(document, cut)| {
            let mut text = document.to_string().into_bytes();
            text.truncate(text.len().saturating_sub(cut));
            text
        }),
    ]
}

proptest! {
    #[test]
    fn no_answer_makes_a_dialect_panic(
        status in 100u16..=999,
        retry_after in vec(any::<u8>(), 0..12),
        date in vec(any::<u8>(), 0..30),
        body in bodies(),
    ) {
        let mut headers = HeaderMap::new();
        for (name, value) in [("retry-after", &retry_after), ("date", &date)] {
            if let Ok(value) = HeaderValue::from_bytes(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        for status in [status, 200, 429] {
            classify(&ALL, status, &headers, &body);
        }
    }
}

/// `piece` as often as it fits between `open` and `close`.
fn filled(open: &str, piece: &str, close: &str) -> Vec<u8> {
    let times = (LONGEST - open.len() - close.len()) / piece.len();
    format!("{open}{}{close}", piece.repeat(times)).into_bytes()
}

/// Half of what is read, each another one.
fn many_keys() -> String {
    let keys = (0..LONGEST / 16).map(|key| format!("\"{key:x}\":0,"));
    keys.collect()
}

/// What costs the most to read, and matches no rule before the last.
fn worst_bodies() -> Vec<(&'static str, Vec<u8>)> {
    let error = |open: &str, piece: &str, close: &str| {
        filled(
            &format!("{{\"error\":{{{open}"),
            piece,
            &format!("{close}}}}}"),
        )
    };
    let as_event = |document: Vec<u8>| {
        let text = String::from_utf8(document).unwrap();
        format!("event:error\ndata:{text}").into_bytes()
    };
    vec![
        (
            "a long message",
            error("\"message\":\"", "free allocated quot ", "\""),
        ),
        (
            "nothing but escapes",
            error("\"message\":\"", "\\u0041", "\""),
        ),
        (
            "a letter over and over",
            error("\"message\":\"", "ffffffff", "\""),
        ),
        ("many keys", error("", &many_keys(), "\"b\":0")),
        ("many lists", error("\"details\":[", "[],", "[]]")),
        (
            "many details",
            error(
                "\"details\":[",
                "{\"violations\":[{\"quotaId\":\"P\"}]},",
                "{}]",
            ),
        ),
        (
            "many quotas",
            error(
                "\"details\":[{\"violations\":[",
                "{\"quotaId\":\"\"},",
                "{}]}]",
            ),
        ),
        ("many numbers", error("\"details\":[", "1e300,", "0]")),
        ("a long number", error("\"code\":", "1", "")),
        ("deep lists", filled("", "[", "")),
        ("deep tables", filled("", "{\"error\":", "")),
        (
            "a document cut off",
            filled("{\"error\":{\"message\":\"", "\"free\" ", ""),
        ),
        ("no UTF-8", vec![0xff; LONGEST]),
        (
            "an error event",
            as_event(error("\"message\":\"", "\\u0041", "\"")),
        ),
        (
            "many lines of data",
            filled("event:error\n", "data:\n", "\n"),
        ),
        ("many comments", filled("", ":\n\n", "data:{}")),
        ("many line ends", filled("", "\r", "data:{}")),
        (
            "a word that might be an error",
            filled("data:{\"error\":null,\"a\":[", "[],", "[]]}"),
        ),
    ]
}

/// What this thread has taken of its processor.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap()
}

#[test]
fn no_answer_takes_a_dialect_a_millisecond() {
    // Without optimisation. What others do meanwhile does not count.
    let longest = Duration::from_millis(if cfg!(debug_assertions) { 20 } else { 1 });
    let headers = HeaderMap::new();
    for name in names() {
        let classifier = [DialectClassifier::with_clock(
            &preset_dialect(&name),
            monday,
        )];
        for (what, body) in worst_bodies() {
            assert!(body.len() <= LONGEST + 32, "{what}: {}", body.len());
            for status in [200, 400, 429] {
                // The best of a few: they share the processor's caches.
                let times = (0..5).map(|_| {
                    let start = processor_time();
                    classify(&classifier, status, &headers, &body);
                    processor_time() - start
                });
                let best = times.min().unwrap();
                println!("{best:>12?} {name} {status} {what}");
                assert!(best < longest, "{name} {status} {what}: {best:?}");
            }
        }
    }
}
