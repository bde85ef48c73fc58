//! `pacegate bench throttle`, and the recordings that it reads.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use pacegate::simulator::{Options, Simulator};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::support::{client, lateness::Lateness};

mod record;

/// Exit code, stdout and stderr of `pacegate bench throttle`.
fn bench(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_pacegate"))
        .args(["bench", "throttle"])
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

fn report(arguments: &[&str]) -> Value {
    let (code, json, errors) = bench(&[arguments, &["--json"]].concat());
    assert_eq!(code, Some(0), "{errors}");
    serde_json::from_str(&json).unwrap()
}

fn policies(report: &Value) -> &[Value] {
    report["policies"].as_array().unwrap()
}

fn policy<'a>(report: &'a Value, name: &str) -> &'a Value {
    let mut policies = policies(report).iter();
    policies.find(|policy| policy["policy"] == name).unwrap()
}

fn number(policy: &Value, pointer: &str) -> f64 {
    policy.pointer(pointer).unwrap().as_f64().unwrap()
}

#[test]
fn a_burst_of_200_shows_what_each_policy_is() {
    let report = report(&["--pattern", "burst:200"]);
    let names: Vec<_> = policies(&report)
        .iter()
        .map(|policy| policy["policy"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "plugin",
            "plugin-fixed",
            "governor-jitter",
            "reference",
            "quota"
        ]
    );

    let plugin = policy(&report, "plugin");
    assert_eq!(number(plugin, "/most_in_window"), 200.0);
    assert!(number(plugin, "/gap_ms/min") < 5.0);
    assert!(number(plugin, "/answers_429") > 100.0);
    assert!(number(plugin, "/lone_wait_ms") > 500.0);

    let reference = policy(&report, "reference");
    assert!((28.0..=32.0).contains(&number(reference, "/per_minute")));
    assert!(number(reference, "/most_in_window") <= 40.0);
    assert!(number(reference, "/gap_ms/min") >= 1500.0);
    assert_eq!(number(reference, "/out_of_order"), 0.0);
    assert_eq!(number(reference, "/lone_wait_ms"), 0.0);
    assert_eq!(number(reference, "/answers_429"), 0.0);

    let quota = policy(&report, "quota");
    assert!(number(quota, "/per_minute") >= 54.0);
    assert!(number(quota, "/most_in_window") <= 58.0);
    assert_eq!(number(quota, "/lone_wait_ms"), 0.0);
    assert_eq!(number(quota, "/answers_429"), 0.0);

    let lottery = number(policy(&report, "governor-jitter"), "/out_of_order");
    assert!((0.4..0.6).contains(&lottery), "{lottery}");
    assert_eq!(
        number(policy(&report, "plugin-fixed"), "/out_of_order"),
        0.0
    );
}

#[test]
fn a_policy_has_sent_what_its_upstream_has_counted() {
    for pattern in ["burst:200", "poisson:80/min", "opencode:8-agents"] {
        for policy in policies(&report(&["--pattern", pattern])) {
            assert_eq!(
                policy["dispatches"], policy["upstream_counted"],
                "{pattern} {}",
                policy["policy"]
            );
            let ended = number(policy, "/served") + number(policy, "/given_up");
            assert_eq!(ended, number(policy, "/requests"), "{pattern}");
        }
    }
}

#[test]
fn an_upstream_stricter_than_the_config_is_obeyed_after_its_first_429() {
    let report = report(&[
        "--policy",
        "quota",
        "--pattern",
        "burst:40",
        "--limit",
        "10/1m",
    ]);
    let quota = policy(&report, "quota");
    assert!(number(quota, "/answers_429") > 0.0);
    assert!(number(quota, "/most_in_window") <= 13.0, "{quota}");
    assert_eq!(quota["dispatches"], quota["upstream_counted"]);
    assert_eq!(quota["served"], 40);
}

#[test]
fn taking_turns_is_fairer_than_first_come_first_served() {
    let report = report(&["--pattern", "opencode:16-agents"]);
    let fairness = |name| number(policy(&report, name), "/fairness");
    assert!(fairness("reference") > 0.9);
    assert!(fairness("plugin-fixed") < 0.7);
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
    let folder = tempfile::tempdir().unwrap();
    let run = |seed: &str, page: &str| {
        let page = folder.path().join(page);
        let (_, json, _) = bench(&[
            "--pattern",
            "poisson:50/min",
            "--requests",
            "120",
            "--json",
            "--seed",
            seed,
            "--html",
            page.to_str().unwrap(),
        ]);
        (json, fs::read_to_string(page).unwrap())
    };
    let (first, again, other) = (run("7", "a"), run("7", "b"), run("8", "c"));
    assert_eq!(first, again);
    assert_ne!(first.0, other.0);
    assert_ne!(first.1, other.1);
}

#[test]
fn a_virtual_day_of_a_thousand_requests_takes_seconds() {
    let lateness = Lateness::watch();
    let started = Instant::now();
    let report = report(&["--pattern", "poisson:1000/day", "--requests", "1000"]);
    let took = started.elapsed();
    for policy in policies(&report) {
        assert_eq!(policy["requests"], 1000);
        assert!(number(policy, "/lasted_s") > 20.0 * 3600.0);
    }
    lateness.assert_within("a virtual day", took, Duration::from_secs(10));
}

#[test]
fn a_used_up_day_is_not_overdrawn() {
    let report = report(&[
        "--policy",
        "quota",
        "--pattern",
        "steady:1/s",
        "--requests",
        "1100",
    ]);
    let quota = policy(&report, "quota");
    assert_eq!(number(quota, "/answers_429"), 0.0);
    assert!(number(quota, "/served") >= 1000.0);
}

#[test]
fn recordings_of_a_real_agent_are_run_whole() {
    let traces = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/traces");
    for (name, requests) in [
        ("eight-sub-agents", 11),
        ("five-sessions", 10),
        ("one-session", 2),
        ("tool-loop", 5),
    ] {
        let pattern = format!("trace:{}/{name}.jsonl", traces.display());
        let report = report(&["--pattern", &pattern]);
        for policy in policies(&report) {
            assert_eq!(policy["served"], requests, "{name} {}", policy["policy"]);
        }
    }
}

#[test]
fn the_page_is_whole_and_needs_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bench.html");
    let (code, _, errors) = bench(&["--html", path.to_str().unwrap(), "--seed", "11"]);
    assert_eq!(code, Some(0), "{errors}");
    let page = fs::read_to_string(path).unwrap();
    assert_balanced(&page);
    assert_eq!(page.matches("<svg").count(), 2 * 5);
    for word in [
        "http://", "https://", "<script", "<link", "<img", "@import", "url(",
    ] {
        assert!(!page.contains(word), "{word}");
    }
    for word in [
        "burst:50",
        "seed 11",
        "governor-jitter",
        "prefers-color-scheme: dark",
    ] {
        assert!(page.contains(word), "{word}");
    }
}

/// Every element ends where it should.
fn assert_balanced(page: &str) {
    let mut open = Vec::new();
    for part in page.split('<').skip(1) {
        let (tag, _) = part.split_once('>').unwrap();
        let name = tag.split([' ', '\n']).next().unwrap();
        match name.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "{tag}"),
            None if tag.ends_with('/') || tag.starts_with('!') => {}
            None => open.push(name),
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn the_table_names_every_policy_above_its_figures() {
    let (_, table, _) = bench(&[
        "--policy",
        "quota",
        "--policy",
        "plugin",
        "--pattern",
        "burst:3",
    ]);
    let mut lines = table.lines();
    assert_eq!(
        lines.next(),
        Some("burst:3: 3 requests, virtual time, seed 1; an answer takes 2s")
    );
    let headings: Vec<_> = lines.nth(1).unwrap().split_whitespace().collect();
    assert_eq!(headings, ["quota", "plugin"]);
    let widths: Vec<_> = table
        .lines()
        .skip(2)
        .map(|line| line.chars().count())
        .collect();
    assert!(widths.iter().all(|width| *width == widths[0]), "{table}");
}

#[test]
fn what_cannot_be_run_is_refused_with_a_word_on_why() {
    for (arguments, code, words) in [
        (["--policy", "plugn"], 2, "did you mean \"plugin\"?"),
        (["--policy", "zzz"], 2, "known are: plugin,"),
        (["--policy", "./no.toml"], 78, "cannot read ./no.toml"),
        (["--pattern", "brust:5"], 2, "did you mean \"burst\"?"),
        (["--pattern", "burst:0"], 2, "expected burst:NUMBER"),
        (["--pattern", "burst:-1"], 2, "expected burst:NUMBER"),
        (
            ["--pattern", "poisson:x/min"],
            2,
            "expected poisson:NUMBER/TIME",
        ),
        (
            ["--pattern", "steady:1/fortnight"],
            2,
            "expected steady:NUMBER/TIME",
        ),
        (
            ["--pattern", "steady:NaN/s"],
            2,
            "expected steady:NUMBER/TIME",
        ),
        (
            ["--pattern", "opencode:8"],
            2,
            "expected opencode:NUMBER-agents",
        ),
        (["--pattern", "trace:"], 2, "expected trace:FILE"),
        (["--pattern", "trace:no.jsonl"], 1, "cannot read no.jsonl"),
        (["--requests", "0"], 2, "not in 1..=100000"),
        (["--duration", "0s"], 2, "more than 0s"),
        (["--limit", "60"], 2, "expected REQUESTS/TIME"),
        (["--seed", "x"], 2, "--seed"),
        (
            ["--html", "/no/such/folder.html"],
            1,
            "cannot write /no/such/folder.html",
        ),
    ] {
        let (exit, out, errors) = bench(&arguments);
        assert_eq!(exit, Some(code), "{arguments:?} {out}{errors}");
        assert!(errors.contains(words), "{arguments:?} {errors}");
    }
}

#[test]
fn a_line_that_is_no_arrival_is_named_with_its_number() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.jsonl");
    let good = r#"{"at_ms": 0.0, "session": "s1"}"#;
    for (line, reason) in [
        ("{\"at_ms\": 1", "EOF"),
        (r#"{"at_ms": 1}"#, "missing field `session`"),
        (r#"{"at_ms": -1, "session": "s1"}"#, "at_ms is -1"),
        (r#"{"at_ms": "soon", "session": "s1"}"#, "invalid type"),
    ] {
        fs::write(&path, format!("{good}\n\n{line}\n")).unwrap();
        let (code, _, errors) = bench(&["--pattern", &format!("trace:{}", path.display())]);
        assert_eq!(code, Some(1), "{errors}");
        assert!(errors.contains("bad.jsonl:3: "), "{errors}");
        assert!(errors.contains(reason), "{errors}");
    }
    fs::write(&path, "\n").unwrap();
    let (code, _, errors) = bench(&["--pattern", &format!("trace:{}", path.display())]);
    assert_eq!(code, Some(1), "{errors}");
    assert!(errors.contains("holds no arrivals"), "{errors}");
}

#[test]
fn over_sockets_the_simulator_counts_what_the_gateway_sends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("quick.toml");
    let config = "[[upstream]]\npreset = \"openai\"\n[upstream.jitter-throttle]\n\
                  min-interval = \"60ms\"\njitter = \"0ms..20ms\"\nbusy = { from = 1, within = \"1s\", jitter = \"0ms..20ms\" }\n";
    fs::write(&path, config).unwrap();
    let report = report(&[
        "--real",
        "--answer-time",
        "20ms",
        "--pattern",
        "burst:12",
        "--policy",
        path.to_str().unwrap(),
    ]);
    let quick = &policies(&report)[0];
    assert_eq!(report["clock"], "real");
    assert_eq!(quick["served"], 12);
    assert_eq!(quick["dispatches"], 12);
    assert_eq!(quick["upstream_counted"], 12);
    assert!(number(quick, "/gap_ms/min") >= 40.0, "{quick}");
}
