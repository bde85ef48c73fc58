//! `pacegate login`, and in `status` what follows it: the real program against the simulator.

// Always so here; it tells clippy that helpers of tests may unwrap as tests do.
#![cfg(test)]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use pacegate::simulator::{Arrival, Behaviour, DeviceAnswer, Options, Simulator};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::support::{gateway::PATIENCE, lateness::Lateness};

mod status;
mod wire;

/// A home with a config, and what a verb has said there.
struct Home {
    folder: TempDir,
}

struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

// === impl Home ===

impl Home {
    /// Whose upstream `qwen` has its endpoints at `origin`.
    fn new(origin: &str) -> Self {
        let home = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let config = format!(
            "[[upstream]]\nname = \"qwen\"\npreset = \"qwen-oauth\"\n\
             [upstream.credentials]\n\
             device-code-url = \"{origin}/api/v1/oauth2/device/code\"\n\
             token-url = \"{origin}/api/v1/oauth2/token\"\n\
             [[upstream]]\nname = \"keyed\"\npreset = \"openai\"\n\
             [[upstream]]\nname = \"open\"\npreset = \"local\"\n"
        );
        fs::write(home.path("pacegate.toml"), config).unwrap();
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn credentials(&self) -> PathBuf {
        self.path(".qwen/oauth_creds.json")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pacegate"));
        command
            .args(arguments)
            .arg("--config")
            .arg(self.path("pacegate.toml"))
            .current_dir(self.folder.path())
            .env_clear()
            .env("HOME", self.folder.path())
            .env("OPENAI_API_KEY", "canary-key")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs a verb to its end, on a thread of its own: the simulator needs this one.
    async fn run(&self, arguments: &[&str]) -> Said {
        Said::by(self.command(arguments)).await
    }

    /// Everything in the folder of the credentials.
    fn left_behind(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(".qwen")) else {
            return Vec::new();
        };
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let names = entries.map(|entry| name(entry).into_string().unwrap());
        names.collect()
    }

    fn write_login(&self, expiry_date: u64) {
        fs::create_dir_all(self.path(".qwen")).unwrap();
        let text = format!(
            r#"{{"access_token":"canary","token_type":"Bearer","refresh_token":"canary","expiry_date":{expiry_date}}}"#
        );
        fs::write(self.credentials(), text).unwrap();
    }
}

// === impl Said ===

impl Said {
    /// What `command` says until its end.
    async fn by(mut command: Command) -> Self {
        let child = command.spawn().unwrap();
        let output = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap());
        let output = tokio::time::timeout(PATIENCE, output).await;
        let output = output.expect("it ends").unwrap();
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// A simulator whose polls may follow each other after a second.
async fn simulator(answers: &[DeviceAnswer]) -> Simulator {
    let oauth = Behaviour {
        interval: Duration::from_secs(1),
        device_answers: answers.to_vec(),
        slow_down_status: 429,
        resource_url: Some("portal.qwen.ai".into()),
        ..Behaviour::default()
    };
    Simulator::start(Options {
        oauth,
        ..Options::default()
    })
    .await
    .unwrap()
}

fn polls(simulator: &Simulator) -> Vec<Arrival> {
    let mut arrivals = simulator.arrivals();
    arrivals.retain(|arrival| arrival.target.ends_with("/token"));
    arrivals
}

/// The seconds from each request to the next, the first being the one that began the login.
fn gaps(simulator: &Simulator) -> Vec<f64> {
    let arrivals = simulator.arrivals();
    let gap = |pair: &[Arrival]| Duration::from_micros(pair[1].at_us - pair[0].at_us);
    arrivals
        .windows(2)
        .map(|it| gap(it).as_secs_f64())
        .collect()
}

#[tokio::test]
async fn logs_in_after_pending_a_server_error_nonsense_and_a_slow_down() {
    use DeviceAnswer::{BadJson, Failure, Pending, SlowDown};
    let simulator = simulator(&[Pending, Failure, BadJson, SlowDown]).await;
    let lateness = Lateness::watch();
    let home = Home::new(&simulator.origin());
    let said = home.run(&["login", "--no-browser"]).await;
    assert_eq!(said.code, Some(0), "{}{}", said.stdout, said.stderr);

    // Never sooner than the interval, and six seconds after the slow_down.
    let gaps = gaps(&simulator);
    assert_eq!(gaps.len(), 5, "{gaps:?}");
    for (gap, least) in gaps.iter().zip([1.0, 1.0, 1.0, 1.0, 6.0]) {
        assert!(*gap >= least, "{gaps:?}");
        let [gap, most] = [*gap, least + 0.9].map(Duration::from_secs_f64);
        lateness.assert_within("a gap between polls", gap, most);
    }

    let text = fs::read_to_string(home.credentials()).unwrap();
    let saved: Value = serde_json::from_str(&text).unwrap();
    assert!(
        saved["access_token"]
            .as_str()
            .unwrap()
            .starts_with("sim-access-")
    );
    assert!(
        saved["refresh_token"]
            .as_str()
            .unwrap()
            .starts_with("sim-refresh-")
    );
    assert_eq!(saved["resource_url"], "portal.qwen.ai");
    assert!(saved["expiry_date"].as_u64() > Some(1_700_000_000_000));
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(home.credentials()), 0o600);
    assert_eq!(mode(home.path(".qwen")), 0o700);
    assert_eq!(home.left_behind(), ["oauth_creds.json"]);

    // Plain lines: the page, the code, what happened; no escape code and nothing secret.
    let origin = simulator.origin();
    assert!(
        said.stdout
            .contains(&format!("\n  {origin}/authorize?user_code="))
    );
    for words in [
        "confirm the code ",
        "the code expires in 15m\n",
        "no usable answer, asking again: status 500",
        "asked to slow down: asking every 6s",
        "logged in; saved to ",
    ] {
        assert!(said.stdout.contains(words), "{words}: {}", said.stdout);
    }
    assert!(
        !said.stdout.contains(['\u{1b}', '\r', '\u{2588}']),
        "{}",
        said.stdout
    );
    assert!(!said.stdout.contains("sim-"), "{}", said.stdout);
    assert_eq!(said.stderr, "");
}

#[tokio::test]
async fn a_login_that_comes_to_nothing_says_why_and_leaves_nothing_behind() {
    for (answer, words) in [
        (
            DeviceAnswer::Denied,
            "error: the login was denied\n  hint: run",
        ),
        (DeviceAnswer::Expired, "error: the code has expired"),
    ] {
        let simulator = simulator(&[answer]).await;
        let home = Home::new(&simulator.origin());
        let said = home.run(&["login", "--no-browser"]).await;
        assert_eq!(said.code, Some(1));
        assert!(said.stderr.starts_with(words), "{}", said.stderr);
        assert_eq!(polls(&simulator).len(), 1);
        assert_eq!(home.left_behind(), [""; 0]);
    }
}

#[tokio::test]
async fn a_service_that_is_not_there_is_named() {
    let home = Home::new("http://127.0.0.1:1");
    let said = home.run(&["login", "--no-browser"]).await;
    assert_eq!(said.code, Some(1));
    let words = "error: http://127.0.0.1:1/api/v1/oauth2/device/code: the login could not begin: ";
    assert!(said.stderr.starts_with(words), "{}", said.stderr);
}

#[tokio::test]
async fn an_interrupted_login_leaves_nothing_behind() {
    let simulator = simulator(&[DeviceAnswer::Pending; 60]).await;
    let home = Home::new(&simulator.origin());
    let child = home.command(&["login", "--no-browser"]).spawn().unwrap();
    while polls(&simulator).is_empty() {
        sleep(Duration::from_millis(10)).await;
    }
    let id = child.id().to_string();
    let kill = Command::new("kill").args(["-INT", &id]).status().unwrap();
    assert!(kill.success());
    let output = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap())
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr, "error: stopped; nothing was saved\n");
    assert_eq!(home.left_behind(), [""; 0]);
}

#[tokio::test]
async fn what_the_config_cannot_say_is_asked_for() {
    let home = Home::new("http://127.0.0.1:1");
    for (arguments, words) in [
        (
            &["login", "--upstream", "keyed"][..],
            "error: no upstream keyed has a login\n  hint: those that have one: qwen\n",
        ),
        (
            &["status", "--upstream", "nobody"],
            "error: no such upstream\n  hint: there are qwen, keyed, open\n",
        ),
    ] {
        let said = home.run(arguments).await;
        assert_eq!((said.code, &*said.stderr), (Some(2), words));
    }
    let config = "[[upstream]]\nname = \"open\"\npreset = \"local\"\n";
    fs::write(home.path("pacegate.toml"), config).unwrap();
    let said = home.run(&["logout"]).await;
    assert_eq!(said.code, Some(2));
    assert!(
        said.stderr
            .contains("no upstream of this config has a login")
    );
}

#[tokio::test]
async fn a_field_of_these_requests_can_only_have_a_value_or_a_place() {
    let home = Home::new("http://127.0.0.1:1");
    for (field, words) in [
        (
            "set-if-absent = \"x\"",
            "set-if-absent and narrow mean nothing here",
        ),
        ("set = \"{moon}\"", "unknown placeholder {moon}"),
    ] {
        let config = format!(
            "[[upstream]]\npreset = \"qwen-oauth\"\n\
             credentials.headers = [{{ name = \"x-a\", {field} }}]\n"
        );
        fs::write(home.path("pacegate.toml"), config).unwrap();
        let said = home.run(&["login"]).await;
        assert_eq!(said.code, Some(78), "{}", said.stderr);
        assert!(
            said.stderr
                .contains("pacegate.toml:3: upstream[0].credentials.headers[0]")
        );
        assert!(said.stderr.contains(words), "{}", said.stderr);
    }
}

#[tokio::test]
async fn a_login_goes_nowhere_through_a_link() {
    let home = Home::new("http://127.0.0.1:1");
    fs::create_dir(home.path(".qwen")).unwrap();
    std::os::unix::fs::symlink(home.path("elsewhere"), home.credentials()).unwrap();
    for verb in ["login", "logout"] {
        let said = home.run(&[verb]).await;
        assert_eq!(said.code, Some(1));
        assert!(
            said.stderr.contains("is not a regular file"),
            "{}",
            said.stderr
        );
    }
}
