//! Counts that outlive the process: the real program, killed and started again.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use jiff::Timestamp;
use pacegate::{
    api::RETRY_WORDS,
    simulator::{Options, Simulator},
};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::support::client::{self, Answer, BoxError};

/// An upstream, and a folder with a configuration for it.
struct House {
    folder: TempDir,
    upstream: Simulator,
    zone: String,
}

/// A running pacegate, killed when dropped.
struct Gateway {
    program: Child,
    url: String,
}

impl House {
    async fn new(requests: usize) -> Self {
        Self::with(requests, Options::default()).await
    }

    async fn with(requests: usize, options: Options) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let upstream = Simulator::start(options).await.unwrap();
        let zone = zone_where_it_is_noon();
        let config = format!(
            r#"
            listen = "127.0.0.1:0"
            state-dir = "state"

            [[upstream]]
            name = "sim"
            base-url = "{}"
            credentials = {{ kind = "none" }}
            pipeline = ["jitter-throttle"]

            [upstream.jitter-throttle]
            min-interval = "1ms"
            jitter = "0ms..2ms"
            quotas = [{{ requests = {requests}, per = "day", zone = "{zone}" }}]
            "#,
            upstream.base_url()
        );
        fs::write(folder.path().join("pacegate.toml"), config).unwrap();
        Self {
            folder,
            upstream,
            zone,
        }
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pacegate"));
        command
            .args([verb, "--config", "pacegate.toml"])
            .current_dir(self.folder.path())
            .env_clear();
        command
    }

    fn run(&self, verb: &str) -> (Option<i32>, String) {
        let Output {
            status,
            stdout,
            stderr,
        } = self.command(verb).output().unwrap();
        let printed = String::from_utf8([stdout, stderr].concat()).unwrap();
        (status.code(), printed)
    }

    fn serve(&self) -> Gateway {
        let mut program = self
            .command("serve")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(program.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let url = line.trim().strip_prefix("listening on ").unwrap();
        Gateway {
            url: url.into(),
            program,
        }
    }

    /// What the upstream has counted, once nothing is on its way any more.
    async fn counted(&self) -> usize {
        // A connection that is made may not have been accepted yet.
        sleep(Duration::from_millis(20)).await;
        while self.upstream.connections() > 0 {
            sleep(Duration::from_millis(2)).await;
        }
        self.upstream.arrivals().len()
    }

    /// What the file says.
    fn kept(&self) -> usize {
        let text = fs::read_to_string(self.file()).unwrap();
        let state: serde_json::Value = serde_json::from_str(&text).unwrap();
        let used = state["counts"][0]["used"].as_u64().unwrap();
        usize::try_from(used).unwrap()
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("state/quotas-sim.json")
    }
}

impl Gateway {
    async fn chat(&self) -> Result<Answer, BoxError> {
        chat(&self.url).await
    }

    async fn metric(&self, name: &str) -> String {
        let metrics = client::get(&format!("{}/metrics", self.url)).await.unwrap();
        let line = metrics.text().lines().find(|line| line.starts_with(name));
        line.unwrap().to_owned()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.program.kill().unwrap();
        self.program.wait().unwrap();
    }
}

async fn chat(url: &str) -> Result<Answer, BoxError> {
    let url = format!("{url}/v1/chat/completions");
    client::post_json(&url, r#"{"model":"sim-small","messages":[]}"#, &[]).await
}

/// So that no day ends during a test.
fn zone_where_it_is_noon() -> String {
    // The sign is POSIX's: Etc/GMT-5 is five hours ahead.
    let hours = Timestamp::now().as_second() / 3600 % 24 - 12;
    format!("Etc/GMT{hours:+}")
}

#[tokio::test]
async fn killed_twenty_times_in_the_middle_of_a_day_it_has_counted_exactly() {
    let slow = Options {
        latency: Duration::from_millis(20),
        ..Options::default()
    };
    let house = House::with(1000, slow).await;
    for kill in 1..=20 {
        let gateway = house.serve();
        let url = gateway.url.clone();
        for _ in 0..2 {
            assert_eq!(gateway.chat().await.unwrap().status, 200);
        }
        // One more is in the upstream's hands.
        let death = async {
            while house.upstream.in_flight() == 0 {
                sleep(Duration::from_millis(1)).await;
            }
            drop(gateway);
        };
        let (answer, ()) = tokio::join!(chat(&url), death);
        answer.unwrap_err();
        assert_eq!(house.kept(), 3 * kill, "kill {kill}");
        assert_eq!(house.counted().await, 3 * kill, "kill {kill}");
    }
}

/// Between the write and the first byte to the upstream nobody can know on which side it died; then
/// it counts, because the other way a day would be spent twice.
#[tokio::test]
async fn killed_at_any_moment_it_has_counted_no_more_than_the_one_on_its_way() {
    let house = House::new(1000).await;
    let mut never_sent = 0;
    for kill in 0..10 {
        let gateway = house.serve();
        let url = gateway.url.clone();
        let traffic = async { while chat(&url).await.is_ok() {} };
        let before = house.upstream.arrivals().len();
        let death = async {
            while house.upstream.arrivals().len() < before + 2 {
                sleep(Duration::from_millis(1)).await;
            }
            sleep(Duration::from_millis(kill)).await;
            drop(gateway);
        };
        tokio::join!(traffic, death);
        let (kept, counted) = (house.kept(), house.counted().await);
        let more = kept.checked_sub(counted + never_sent);
        assert!(
            matches!(more, Some(0 | 1)),
            "{kept} of {counted}, kill {kill}"
        );
        never_sent = kept - counted;
    }
    assert!(house.kept() >= 20);
}

#[tokio::test]
async fn a_day_that_is_used_up_stays_so_after_a_restart_and_is_said_once_and_plainly() {
    let house = House::new(5).await;
    let gateway = house.serve();
    for _ in 0..3 {
        assert_eq!(gateway.chat().await.unwrap().status, 200);
    }
    drop(gateway);
    let gateway = house.serve();
    for _ in 0..2 {
        assert_eq!(gateway.chat().await.unwrap().status, 200);
    }
    let answer = gateway.chat().await.unwrap();
    assert_eq!(answer.status, 403);
    assert_eq!(answer.header("x-pacegate-error"), "quota_exhausted");
    assert_eq!(answer.json()["error"]["code"], "quota_exhausted");
    let text = answer.text().to_lowercase();
    assert!(text.contains("day, "), "{text}");
    for word in RETRY_WORDS.into_iter().chain(["unavailable"]) {
        assert!(!text.contains(word), "{word}: {text}");
    }
    let zone = &house.zone;
    let labels = format!(r#"{{upstream="sim",quota="5 per day ({zone})"}}"#);
    for name in ["pacegate_quota_used", "pacegate_quota_limit"] {
        assert_eq!(gateway.metric(name).await, format!("{name}{labels} 5"));
    }
    drop(gateway);
    let gateway = house.serve();
    assert_eq!(gateway.chat().await.unwrap().status, 403);
    assert_eq!(house.counted().await, 5);
}

#[tokio::test]
async fn a_second_process_on_the_same_counts_refuses_to_start() {
    let house = House::new(5).await;
    let gateway = house.serve();
    let (code, printed) = house.run("serve");
    assert_eq!(code, Some(1), "{printed}");
    let id = gateway.program.id();
    for words in [
        "upstream sim",
        "state/quotas-sim.lock is locked",
        &format!("process {id}"),
        "hint: stop the other one, or give each its own state-dir",
    ] {
        assert!(printed.contains(words), "{words}: {printed}");
    }
    assert_eq!(house.run("check").0, Some(0));
    assert_eq!(gateway.chat().await.unwrap().status, 200);
    drop(gateway);
    assert_eq!(house.serve().chat().await.unwrap().status, 200);
}
