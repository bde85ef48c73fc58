//! No secret leaves the real program by a way that is not its own, whatever goes wrong.
//!
//! One gateway that logs all it can, with every kind of secret, is led down every path that ends
//! in an error. What it wrote, answered and shows of itself is then searched for what it knew.

// Always so here; it tells clippy that helpers of tests may unwrap as tests do.
#![cfg(test)]

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::Request;
use http_body_util::BodyExt;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::support::{
    client::{Answer, BoxError, post_json, send},
    gateway::PATIENCE,
};

mod login;
mod panics;
mod scene;

use scene::Scene;

/// The person put these two into the environment, so there they are.
const IN_ENVIRONMENT: [&str; 2] = ["canary-env-key", "canary-proxy"];
const CLIENT_KEY: &str = "canary-client-key-0123456789abcdef";

/// What the gateway knows and nobody may read. The last are the simulator's: parts of its tokens
/// and of its answers.
const CANARIES: &[&str] = &[
    IN_ENVIRONMENT[0],
    IN_ENVIRONMENT[1],
    CLIENT_KEY,
    "canary-access",
    "canary-cookie",
    "canary-file-key",
    "canary-literal",
    "canary-origin",
    "canary-prompt",
    "canary-query",
    "canary-refresh",
    "canary-wrong-key",
    "sim-access-",
    "sim-refresh-",
    "One word",
    "chat.completion",
];

const PROMPT: &str =
    r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"canary-prompt"}]}"#;

/// The program, and what it has answered.
struct Suspect {
    address: String,
    child: Child,
    folder: TempDir,
    said: String,
}

#[tokio::test]
async fn no_error_path_shows_a_secret() {
    let scene = Scene::start().await;
    let folder = tempfile::tempdir().unwrap();
    scene.write(folder.path());
    show_configuration(folder.path());

    let mut suspect = Suspect::start(folder).await;
    suspect.meet_token_trouble(&scene).await;
    suspect.meet_upstream_trouble(&scene).await;
    suspect.meet_client_trouble().await;
    suspect.meet_a_queue().await;
    suspect.show_itself().await;
    suspect.stop(&scene).await;
}

#[test]
fn a_secret_in_the_wrong_place_of_the_config_is_not_repeated() {
    let folder = tempfile::tempdir().unwrap();
    for (config, said) in [
        ("client-keys = [\"canary-literal\"]", "literal"),
        ("client-keys = [{ env = \"NAME\" } canary-literal]", "TOML"),
        ("client-keys = [{ value = \"canary-literal\" }]", "value"),
        (
            "[[upstream]]\nname = \"a\"\npreset = \"openai\"\nbase-url = \"https://me:canary-literal@localhost/v1\"",
            "base-url",
        ),
    ] {
        fs::write(folder.path().join("pacegate.toml"), config).unwrap();
        for verb in [&["check"][..], &["config", "show"], &["serve"]] {
            let output = command(folder.path(), verb).output().unwrap();
            assert_eq!(output.status.code(), Some(78), "{config}");
            let output = [output.stdout, output.stderr].concat();
            let output = String::from_utf8(output).unwrap();
            assert!(output.contains(said), "{output}");
            assert_clean("the message", &output, CANARIES);
        }
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_serving_process_leaves_no_core_dump() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("pacegate.toml"),
        "listen = \"127.0.0.1:0\"",
    )
    .unwrap();
    let suspect = Suspect::start(folder).await;
    let limits = fs::read_to_string(format!("/proc/{}/limits", suspect.child.id())).unwrap();
    let core: Vec<_> = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max core file size"))
        .unwrap()
        .split_whitespace()
        .take(2)
        .collect();
    assert_eq!(core, ["0", "0"], "soft and hard");
}

/// `check` and `config show` know where secrets are, and say no more.
fn show_configuration(folder: &Path) {
    for verb in [&["check"][..], &["config", "show"]] {
        let output = command(folder, verb).output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.success(), "{text}");
        assert!(text.contains("KEY_OF_TEST"), "{text}");
        assert_clean(verb[0], &text, CANARIES);
    }
}

fn command(folder: &Path, verb: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pacegate"));
    command
        .args(verb)
        .args(["--config", "pacegate.toml"])
        .current_dir(folder)
        .env_clear()
        .env("HOME", folder)
        .env("KEY_OF_TEST", IN_ENVIRONMENT[0])
        .env(
            "HTTPS_PROXY",
            format!("http://me:{}@127.0.0.1:9", IN_ENVIRONMENT[1]),
        )
        .env("NO_PROXY", "127.0.0.1,localhost");
    command
}

#[track_caller]
fn assert_clean(what: &str, text: &str, canaries: &[&str]) {
    for canary in canaries {
        if let Some(at) = text.find(canary) {
            let shown: String = text[..at].chars().rev().take(500).collect();
            let shown: String = shown.chars().rev().collect();
            panic!("{what} shows {canary} after:\n{shown}");
        }
    }
}

// === impl Suspect ===

impl Suspect {
    async fn start(folder: TempDir) -> Self {
        Self::launch(folder, |folder| {
            let mut command = command(folder, &["serve", "--log-level", "trace"]);
            command.args(["--record", "record.jsonl"]);
            command
        })
        .await
    }

    /// Starts what `command` gives and waits until it says where it listens.
    async fn launch(folder: TempDir, command: impl FnOnce(&Path) -> Command) -> Self {
        let open = |name| File::create(folder.path().join(name)).unwrap();
        let child = command(folder.path())
            .stdin(Stdio::null())
            .stdout(open("stdout"))
            .stderr(open("stderr"))
            .spawn()
            .unwrap();
        let mut suspect = Self {
            address: String::new(),
            child,
            folder,
            said: String::new(),
        };
        let deadline = Instant::now() + PATIENCE;
        while suspect.address.is_empty() {
            assert!(Instant::now() < deadline, "{}", suspect.read("stderr"));
            sleep(Duration::from_millis(5)).await;
            let stdout = suspect.read("stdout");
            let whole = stdout.split_inclusive('\n').filter(|it| it.ends_with('\n'));
            let address = whole.filter_map(|line| line.strip_prefix("listening on "));
            suspect.address = address.map(str::trim_end).collect();
        }
        suspect
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap()
    }

    fn url(&self, upstream: &str) -> String {
        let address = &self.address;
        format!("{address}/u/{upstream}/v1/chat/completions?key=canary-query")
    }

    /// Asks an upstream; what the gateway says of its own accord is kept.
    async fn ask(&mut self, upstream: &str) -> u16 {
        let answer = chat(&self.url(upstream)).await;
        self.keep(answer)
    }

    fn keep(&mut self, answer: Result<Answer, BoxError>) -> u16 {
        let answer = match answer {
            Ok(answer) => answer,
            // A connection that broke has said nothing.
            Err(_) => return 0,
        };
        self.said += &format!("{:?}\n", answer.headers);
        if !answer.header("x-pacegate-error").is_empty() {
            self.said += &String::from_utf8_lossy(&answer.body);
        }
        answer.status.as_u16()
    }

    async fn meet_token_trouble(&mut self, scene: &Scene) {
        assert_eq!(self.ask("oauth-bad-json").await, 503);
        assert_eq!(self.ask("oauth-failure").await, 503);
        assert_eq!(self.ask("oauth-refused").await, 401);
        assert_eq!(self.ask("oauth-closed").await, 503);
        assert_eq!(self.ask("oauth-untrusted").await, 503);
        assert_eq!(self.ask("oauth-torn").await, 401);
        assert_eq!(self.ask("oauth-wrong").await, 401);
        assert_eq!(self.ask("oauth-missing").await, 401);
        assert_eq!(self.ask("oauth-good").await, 200);
        scene.oauth.revoke_access_tokens();
        assert_eq!(self.ask("oauth-good").await, 200);
    }

    async fn meet_upstream_trouble(&mut self, scene: &Scene) {
        assert_eq!(self.ask("strict").await, 401, "the key is refused");
        assert_eq!(self.ask("closed").await, 502);
        assert_eq!(self.ask("untrusted").await, 502);
        assert_eq!(self.ask("proxied").await, 502);
        assert_eq!(self.ask("h2").await, 200);
        for fault in ["truncate@2", "end@2", "error@1", "500", "reset", "400"] {
            scene.plain.push_fault(fault.parse().unwrap());
            scene.tls.push_fault(fault.parse().unwrap());
            self.ask("plain").await;
            self.ask("h2").await;
        }
        assert_eq!(self.ask("plain").await, 200);
    }

    async fn meet_client_trouble(&mut self) {
        let url = self.url("plain");
        let key = format!("Bearer {CLIENT_KEY}");
        for header in [
            ("authorization", "Bearer canary-wrong-key"),
            ("x-api-key", "canary-wrong-key"),
        ] {
            assert_eq!(self.keep(post_json(&url, PROMPT, &[header]).await), 401);
        }
        let keyed = [("authorization", key.as_str())];
        let any = url.replace("/u/plain", "");
        let torn = post_json(&any, "{\"model\": canary-prompt", &keyed).await;
        assert_eq!(self.keep(torn), 400);
        let origin = [keyed[0], ("origin", "https://canary-origin.example")];
        assert_eq!(self.keep(post_json(&url, PROMPT, &origin).await), 403);
        let large = PROMPT.repeat(1_000);
        assert_eq!(self.keep(post_json(&url, large, &keyed).await), 413);
        let nowhere = url.replace("/u/plain", "/u/nobody");
        assert_eq!(self.keep(post_json(&nowhere, PROMPT, &keyed).await), 404);
    }

    async fn meet_a_queue(&mut self) {
        let url = self.url("queue");
        let answers = join_all((0..4).map(|_| chat(&url))).await;
        let refused = answers.into_iter().map(|answer| self.keep(answer));
        let refused: Vec<_> = refused.filter(|status| *status == 429).collect();
        assert!(!refused.is_empty());
    }

    /// Everything but the log, which goes on.
    async fn show_itself(&mut self) {
        let url = format!("{}/metrics", self.address);
        let metrics = Request::get(url).header("authorization", format!("Bearer {CLIENT_KEY}"));
        let metrics = send(metrics.body(Bytes::new()).unwrap()).await.unwrap();
        let metrics = metrics.into_body().collect().await.unwrap().to_bytes();
        let metrics = str::from_utf8(&metrics).unwrap();
        assert!(metrics.contains("pacegate_answers_total"), "{metrics}");
        assert_clean("/metrics", metrics, CANARIES);

        let process = format!("/proc/{}", self.child.id());
        let others: Vec<_> = CANARIES
            .iter()
            .filter(|canary| !IN_ENVIRONMENT.contains(canary))
            .copied()
            .collect();
        for (file, canaries) in [("cmdline", CANARIES), ("environ", &others)] {
            // Where it cannot be read, nobody else can read it either.
            let shown = fs::read(format!("{process}/{file}")).unwrap_or_default();
            assert_clean(file, &String::from_utf8_lossy(&shown), canaries);
        }
    }

    /// Ends it in the middle of a stream, and searches what is left.
    async fn stop(mut self, scene: &Scene) {
        scene.plain.push_fault("stall@2".parse().unwrap());
        let url = self.url("plain");
        let request = Request::post(url)
            .header("authorization", format!("Bearer {CLIENT_KEY}"))
            .header("content-type", "application/json");
        let stalled = send(request.body(PROMPT.into()).unwrap()).await.unwrap();
        assert_eq!(stalled.status(), 200);
        let mut stream = stalled.into_body();
        stream.frame().await.unwrap().unwrap();
        let deadline = Instant::now() + PATIENCE;
        // Two signals at once would be one.
        for said in ["\"Stopping\"", "\"Stopping at once\""] {
            let id = self.child.id().to_string();
            let kill = Command::new("kill").args(["-TERM", &id]).status().unwrap();
            assert!(kill.success());
            while !self.read("stderr").contains(said) {
                assert!(Instant::now() < deadline, "it is not told: {said}");
                sleep(Duration::from_millis(5)).await;
            }
        }
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "it does not end");
            sleep(Duration::from_millis(5)).await;
        }
        let log = self.read("stderr");
        for said in ["\"target\":\"h2::", "Login required", "Stopping at once"] {
            assert!(log.contains(said), "no {said} in the log");
        }
        assert_clean("the log", &log, CANARIES);
        assert_clean("stdout", &self.read("stdout"), CANARIES);
        assert_clean("the record", &self.read("record.jsonl"), CANARIES);
        assert!(self.said.contains("login_required"));
        assert_clean("an answer", &self.said, CANARIES);
    }
}

impl Drop for Suspect {
    fn drop(&mut self) {
        // It may have ended already.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

async fn chat(url: &str) -> Result<Answer, BoxError> {
    let key = format!("Bearer {CLIENT_KEY}");
    let headers = [
        ("authorization", key.as_str()),
        ("cookie", "session=canary-cookie"),
    ];
    post_json(url, PROMPT, &headers).await
}
