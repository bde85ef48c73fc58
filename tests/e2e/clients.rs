//! Real clients of HTTP/1.1 that offer another protocol in a request's head: h2c, which nobody here
//! speaks. An offer is no demand: who cannot use it answers as if it had not been made
//! ([RFC 9110 §7.8]).
//!
//! `PACEGATE_JAVA` and `PACEGATE_CURL` name the programs; `tests/run` installs them and sets both.
//!
//! [RFC 9110 §7.8]: https://www.rfc-editor.org/rfc/rfc9110#section-7.8

use std::{env, process::Command, time::Duration};

use crate::{ANSWER, gateway::Rig, program::Program};

const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/clients/Client.java");

/// A run takes two seconds, most of which the compiler takes.
const LIMIT: Duration = Duration::from_secs(120);

/// Pacing is not what these are about.
const AT_ONCE: &str = r#"
[upstream.jitter-throttle]
min-interval = "0s"
jitter = "0s..0s"
quotas = []
"#;

/// The program that `variable` names.
fn named(variable: &str) -> Command {
    let program = env::var_os(variable).unwrap_or_else(|| {
        panic!("{variable} names no program; tests/run installs it and sets it")
    });
    let mut command = Command::new(program);
    command
        .env_clear()
        .envs(env::var_os("PATH").map(|path| ("PATH", path)));
    command
}

/// Runs it to its end, which has to be good, and gives what it wrote to stdout. On stderr it has to
/// say that it made the offer.
async fn run(command: &mut Command, rig: &Rig) -> String {
    let home = rig.home.path();
    let mut program = Program::start(command.env("HOME", home), home, "client");
    let status = program.end(LIMIT).await;
    let output = program.output();
    assert!(status.success(), "{status}\n{output}");
    let said = output.to_lowercase();
    assert!(said.contains("upgrade: h2c"), "no offer\n{output}");
    program.stdout()
}

/// Checks that the upstream saw so many chats, and nothing of the offer.
fn assert_passed(rig: &Rig, count: usize) {
    let chats = rig.chats();
    assert_eq!(chats.len(), count);
    for chat in &chats {
        assert_eq!(chat.header("upgrade"), None, "{chat:#?}");
        assert_eq!(chat.header("http2-settings"), None, "{chat:#?}");
    }
}

#[tokio::test]
async fn the_jdks_client_gets_an_answer_and_a_stream_with_its_defaults() {
    let rig = Rig::start_with(&[], "", AT_ONCE).await;
    let mut java = named("PACEGATE_JAVA");
    java.args(["-Djdk.httpclient.HttpClient.log=headers", CLIENT])
        .arg(rig.base_url());
    let said = run(&mut java, &rig).await;
    assert_eq!(said.matches("200 HTTP_1_1\n").count(), 2, "{said}");
    assert!(said.contains(ANSWER), "{said}");
    assert!(said.contains("data: [DONE]\n"), "{said}");
    assert_passed(&rig, 2);
    rig.stop().await;
}

#[tokio::test]
async fn curl_gets_an_answer_to_a_post_and_to_a_get_where_it_offers_http2() {
    let rig = Rig::start_with(&[], "", AT_ONCE).await;
    let url = |path: &str| format!("{}{path}", rig.base_url());
    let offer = [
        "--http2",
        "--silent",
        "--show-error",
        "--verbose",
        "--include",
    ];
    let mut post = named("PACEGATE_CURL");
    post.args(offer)
        .args(["--header", "content-type: application/json"])
        .args(["--data", r#"{"model":"coder-model","messages":[]}"#])
        .arg(url("/chat/completions"));
    let said = run(&mut post, &rig).await;
    assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
    assert!(said.contains(ANSWER), "{said}");

    let mut get = named("PACEGATE_CURL");
    get.args(offer).arg(url("/models"));
    let said = run(&mut get, &rig).await;
    assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
    assert!(said.contains("coder-model"), "{said}");
    assert_passed(&rig, 1);
    rig.stop().await;
}
