//! `pacegate serve --record FILE`.

use super::*;

/// A gateway in front of a simulator, that writes down who comes.
struct Recording {
    folder: TempDir,
    simulator: Simulator,
}

struct Gateway {
    program: Child,
    base_url: String,
}

impl Recording {
    async fn new() -> Self {
        let simulator = Simulator::start(Options::default()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "listen = \"127.0.0.1:0\"\n[[upstream]]\npreset = \"local\"\nbase-url = \"{}\"\n",
            simulator.base_url()
        );
        fs::write(folder.path().join("pacegate.toml"), config).unwrap();
        Self { folder, simulator }
    }

    fn command(&self, file: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pacegate"));
        command.current_dir(self.folder.path()).args([
            "serve",
            "--config",
            "pacegate.toml",
            "--record",
            file,
        ]);
        command
    }

    fn serve(&self) -> Gateway {
        let mut program = self
            .command("arrivals.jsonl")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(program.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let base_url = line
            .trim()
            .strip_prefix("listening on ")
            .unwrap()
            .to_owned();
        Gateway { program, base_url }
    }

    fn file(&self) -> std::path::PathBuf {
        self.folder.path().join("arrivals.jsonl")
    }

    fn lines(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.file()).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

impl Gateway {
    async fn chat(&self, body: &str, headers: &[(&str, &str)]) {
        let url = format!("{}/v1/chat/completions", self.base_url);
        let answer = client::post_json(&url, body.to_owned(), headers)
            .await
            .unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _gone = self.program.kill();
        let _reaped = self.program.wait();
    }
}

#[tokio::test]
async fn arrivals_are_written_down_without_names_and_without_what_they_say() {
    let recording = Recording::new().await;
    let gateway = recording.serve();
    let body = r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"a secret"}]}"#;
    gateway.chat(body, &[("x-session-id", "ses_parent")]).await;
    let child = [
        ("x-session-id", "ses_child"),
        ("x-parent-session-id", "ses_parent"),
    ];
    gateway.chat(body, &child).await;
    let plain = r#"{"model":"m","messages":[]}"#;
    gateway.chat(plain, &[]).await;

    let text = fs::read_to_string(recording.file()).unwrap();
    for word in ["secret", "ses_", "messages"] {
        assert!(!text.contains(word), "{text}");
    }
    let lines = recording.lines();
    let summary: Vec<_> = lines
        .iter()
        .map(|line| {
            (
                line["session"].as_str().unwrap(),
                line["parent"].as_str(),
                line["stream"].as_bool().unwrap(),
                line["bytes"].as_u64().unwrap() as usize,
            )
        })
        .collect();
    assert_eq!(
        summary,
        [
            ("s1", None, true, body.len()),
            ("s2", Some("s1"), true, body.len()),
            ("s3", None, false, plain.len()),
        ]
    );
    assert_eq!(lines[0]["at_ms"], 0.0);
    assert!(lines[1]["at_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(lines[0]["model"], "m");
    assert!(lines[0]["kind"].is_null());
    let mode = fs::metadata(recording.file()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    recording.simulator.shutdown().await;
}

#[tokio::test]
async fn a_recording_goes_on_in_the_same_file_and_a_bench_reads_both_runs() {
    let recording = Recording::new().await;
    let body = r#"{"model":"m","messages":[]}"#;
    for _ in 0..2 {
        let gateway = recording.serve();
        gateway.chat(body, &[("x-session-id", "one")]).await;
        gateway.chat(body, &[("x-session-id", "two")]).await;
    }
    assert_eq!(recording.lines().len(), 4);
    let pattern = format!("trace:{}", recording.file().display());
    let report = report(&["--policy", "reference", "--pattern", &pattern]);
    let reference = policy(&report, "reference");
    assert_eq!(reference["served"], 4);
    assert!(number(reference, "/lasted_s") >= 60.0, "{reference}");
}

#[tokio::test]
async fn a_file_that_cannot_be_written_keeps_it_from_starting() {
    let recording = Recording::new().await;
    let output = recording.command("no/such/folder.jsonl").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(
        errors.contains("cannot record arrivals to no/such/folder.jsonl (--record)"),
        "{errors}"
    );
}
