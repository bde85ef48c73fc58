//! The verbs around a login, each on every way that it can end.

use std::{
    os::unix::fs::PermissionsExt,
    process::ExitStatus,
    sync::{Arc, Mutex},
};

use pacegate::simulator::{Behaviour, DeviceAnswer, Options, Simulator};
use serde_json::Value;

use super::{
    scene::{credentials, idle_upstream},
    *,
};
use crate::support::{tap::tap, terminal::Terminal};

/// A login on a terminal, with a browser, that logs all it can.
struct Attempt {
    child: Child,
    folder: TempDir,
    simulator: Simulator,
    terminal: Terminal,
    wire: Arc<Mutex<Vec<u8>>>,
}

/// What it has left, and the secrets that were in it.
struct Left {
    canaries: Vec<String>,
    folder: TempDir,
    log: String,
    screen: String,
    status: ExitStatus,
}

#[tokio::test]
async fn no_end_of_a_login_shows_a_secret() {
    use DeviceAnswer::{BadJson, Denied, Expired, Failure, Pending};
    let (granted, denied, expired, interrupted, unsaved) = tokio::join!(
        login(&[Pending, Failure, BadJson], async |_| ()),
        login(&[Denied], async |_| ()),
        login(&[Expired], async |_| ()),
        login(&[Pending; 60], async |attempt| attempt.interrupt().await),
        login(&[], async |attempt| {
            // In the way of the folder that the file is to be in.
            fs::write(attempt.folder.path().join("home"), "").unwrap();
        }),
    );
    for (left, code, words) in [
        (granted, 0, "logged in; saved to "),
        (denied, 1, "the login was denied"),
        (expired, 1, "the code has expired"),
        (interrupted, 1, "stopped; nothing was saved"),
        (unsaved, 1, "the login is not saved: home: "),
    ] {
        assert_eq!(left.status.code(), Some(code), "{}", left.log);
        let said = format!("{}{}", left.screen, left.log);
        assert!(said.contains(words), "no {words} in {said}");
        left.assert_clean();
    }
}

#[tokio::test]
async fn status_and_logout_show_no_secret_of_a_file_whole_or_not() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path(), "http://127.0.0.1:9");
    fs::create_dir(folder.path().join("home")).unwrap();
    let whole = credentials("status", "4000000000000");
    let run = |verb: &[&str]| {
        let output = command(folder.path(), verb)
            .args(["--log-level", "trace"])
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        String::from_utf8(said).unwrap()
    };
    for (text, state) in [
        (&*whole, "logged in until"),
        (&whole[..whole.len() - 9], "it is empty or not JSON"),
        (
            &whole.replace("4000000000000", "\"canary-refresh\""),
            "is not",
        ),
    ] {
        fs::write(folder.path().join("home/oauth.json"), text).unwrap();
        let said = run(&["status"]);
        assert!(said.contains(state), "{said}");
        let said = said + &run(&["status", "--json"]) + &run(&["logout"]);
        assert!(said.contains("add --yes"), "{said}");
        assert_clean("status or logout", &said, CANARIES);
    }
    let said = run(&["logout", "--yes", "--json"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["forgotten"], true);
}

/// A login in the middle of which `meanwhile` happens.
async fn login(answers: &[DeviceAnswer], meanwhile: impl AsyncFnOnce(&Attempt)) -> Left {
    let oauth = Behaviour {
        interval: Duration::from_secs(1),
        device_answers: answers.to_vec(),
        ..Behaviour::default()
    };
    let options = Options {
        oauth,
        ..Options::default()
    };
    let simulator = Simulator::start(options).await.unwrap();
    let (origin, wire) = tap(&simulator).await;
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path(), &origin);
    let terminal = Terminal::open();
    let child = command(folder.path(), &["login", "--log-level", "trace"])
        .env("DISPLAY", ":0")
        .env("TERM", "xterm")
        .env("PATH", format!("{}:/usr/bin:/bin", folder.path().display()))
        .stdin(Stdio::null())
        .stdout(terminal.stdio())
        .stderr(File::create(folder.path().join("stderr")).unwrap())
        .spawn()
        .unwrap();
    let attempt = Attempt {
        child,
        folder,
        simulator,
        terminal,
        wire,
    };
    meanwhile(&attempt).await;
    attempt.end().await
}

/// A config with two upstreams, of which the second has a key, and a browser that says how it was
/// started.
fn prepare(folder: &Path, origin: &str) {
    let put = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    put("client-key", CLIENT_KEY);
    let config = format!(
        r#"client-keys = [{{ file = "client-key" }}]
log = {{ format = "json" }}
{}
[upstream.credentials]
kind = "oauth"
file = "home/oauth.json"
device-code-url = "{origin}/api/v1/oauth2/device/code"
token-url = "{origin}/api/v1/oauth2/token"
client-id = "test"
scope = "test"
resource-hosts = []
{}
[upstream.credentials]
kind = "api-key"
key = {{ env = "KEY_OF_TEST" }}
"#,
        // The HTTP version whose client logs most.
        idle_upstream("oauth").replace("preset", "http = \"h2\"\npreset"),
        idle_upstream("keyed"),
    );
    put("pacegate.toml", &config);
    put(
        "xdg-open",
        "#!/bin/sh\ntr '\\0' '\\n' </proc/$$/cmdline >browser.part\n\
         tr '\\0' '\\n' </proc/$$/environ >browser.environ\nmv browser.part browser.cmdline\n",
    );
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(folder.join("xdg-open"), mode).unwrap();
}

// === impl Attempt ===

impl Attempt {
    /// Shows itself to others while it waits, and is interrupted.
    async fn interrupt(&self) {
        let browser = self.folder.path().join("browser.cmdline");
        let deadline = Instant::now() + PATIENCE;
        while self.canaries().len() < 2 || !browser.exists() {
            assert!(Instant::now() < deadline, "it asks nobody");
            sleep(Duration::from_millis(10)).await;
        }
        // A page, as it is also on the screen; and what the person's own environment holds.
        let shown = fs::read_to_string(browser).unwrap();
        assert!(shown.contains("/authorize?user_code="), "{shown}");
        let process = format!("/proc/{}", self.child.id());
        let environ = |path: &Path| {
            // Where it cannot be read, nobody else can read it either.
            let shown = fs::read(path).unwrap_or_default();
            let shown = String::from_utf8_lossy(&shown).into_owned();
            IN_ENVIRONMENT
                .iter()
                .fold(shown, |shown, theirs| shown.replace(theirs, ""))
        };
        let shown = [
            shown,
            fs::read_to_string(format!("{process}/cmdline")).unwrap(),
            environ(Path::new(&format!("{process}/environ"))),
            environ(&self.folder.path().join("browser.environ")),
        ];
        assert_clean("a process", &shown.concat(), CANARIES);
        for canary in self.canaries() {
            assert_clean("a process", &shown.concat(), &[&canary]);
        }
        let id = self.child.id().to_string();
        let kill = Command::new("kill").args(["-INT", &id]).status().unwrap();
        assert!(kill.success());
    }

    /// What it has sent that nobody else may know.
    fn canaries(&self) -> Vec<String> {
        let wire = String::from_utf8_lossy(&self.wire.lock().unwrap()).into_owned();
        ["device_code=", "code_verifier="]
            .iter()
            .filter_map(|name| wire.split_once(name))
            .map(|(_, rest)| {
                let is_value = |it: char| it.is_ascii_alphanumeric() || it == '-' || it == '_';
                rest.chars().take_while(|it| is_value(*it)).collect()
            })
            .collect()
    }

    async fn end(mut self) -> Left {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            sleep(Duration::from_millis(10)).await;
        };
        let log = fs::read_to_string(self.folder.path().join("stderr")).unwrap();
        let canaries = self.canaries();
        assert_eq!(canaries.len(), 2, "no poll: {log}");
        self.simulator.shutdown().await;
        Left {
            canaries,
            log,
            folder: self.folder,
            screen: self.terminal.text(),
            status,
        }
    }
}

// === impl Left ===

impl Left {
    fn assert_clean(&self) {
        let (_, code) = self.screen.split_once("confirm the code ").unwrap();
        let user_code = code.split_whitespace().next().unwrap();
        for (what, text) in [("the log", &self.log), ("the screen", &self.screen)] {
            assert_clean(what, text, CANARIES);
            for canary in &self.canaries {
                assert_clean(what, text, &[canary]);
            }
        }
        assert!(self.log.contains("\"target\":\"h2::"), "{}", self.log);
        // For the person alone, who reads it on the screen.
        assert_clean("the log", &self.log, &[user_code]);
        for entry in fs::read_dir(self.folder.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() && !path.ends_with("client-key") {
                let text = fs::read_to_string(&path).unwrap();
                for canary in &self.canaries {
                    assert_clean("a file", &text, &[canary]);
                }
            }
        }
    }
}
