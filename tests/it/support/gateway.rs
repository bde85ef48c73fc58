//! The real gateway: a process of its own, in front of whatever a test configures.

use std::{
    env,
    ffi::OsString,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::Duration,
};

use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::client::{self, Answer, BoxError, post_json};

/// A running `pacegate serve`. It is killed when dropped; if its test failed, its log is shown.
pub(crate) struct Gateway {
    address: String,
    child: Child,
    folder: Arc<TempDir>,
    log: Log,
    logging: Option<JoinHandle<()>>,
}

type Log = Arc<Mutex<String>>;

/// One reading of `/metrics`.
pub(crate) struct Metrics(String);

/// Nothing here takes longer unless it hangs, however busy the machine is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

// === impl Gateway ===

impl Gateway {
    /// Starts with `config` on a free port.
    pub(crate) fn start(config: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), config)
    }

    /// Starts with `config`, whose relative paths are those of `folder`. Where it says nothing of
    /// `listen`, any free port is taken; where of `log`, all of it is.
    pub(crate) fn start_in(folder: impl Into<Arc<TempDir>>, config: &str) -> Self {
        Self::start_with(folder, config, &[])
    }

    /// The same, with more in its environment.
    pub(crate) fn start_with(
        folder: impl Into<Arc<TempDir>>,
        config: &str,
        environment: &[(&str, OsString)],
    ) -> Self {
        let folder = folder.into();
        let mut command = serve(folder.path(), config);
        command.envs(environment.iter().cloned());
        Self::spawn(folder, command)
    }

    /// Starts with `config` as a process that may open so many files.
    pub(crate) fn start_with_descriptors(most: usize, config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let command = limited(most, &serve(folder.path(), config));
        Self::spawn(folder.into(), command)
    }

    fn spawn(folder: Arc<TempDir>, mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Log::default();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let copy = Arc::clone(&log);
        let logging = thread::spawn(move || {
            let mut line = Vec::new();
            while lines
                .read_until(b'\n', &mut line)
                .is_ok_and(|read| read > 0)
            {
                *copy.lock().unwrap() += &String::from_utf8_lossy(&line);
                line.clear();
            }
        });
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let mut gateway = Self {
            address: String::new(),
            child,
            folder,
            log,
            logging: Some(logging),
        };
        let address = line
            .strip_prefix("listening on ")
            .expect("it did not start");
        gateway.address = address.trim_end().to_owned();
        gateway
    }

    /// Runs with `config` in the expectation that it ends by itself: its exit code, and what it
    /// said.
    pub(crate) fn fails(config: &str) -> (Option<i32>, String) {
        let folder = tempfile::tempdir().unwrap();
        let mut child = serve(folder.path(), config)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                child.kill().unwrap();
                panic!("it serves");
            }
            thread::sleep(Duration::from_millis(5));
        }
        let Output { status, stderr, .. } = child.wait_with_output().unwrap();
        (status.code(), String::from_utf8(stderr).unwrap())
    }

    /// What the line on stdout said: `http://127.0.0.1:PORT`, or `unix:` and a path.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// `host:port`.
    pub(crate) fn authority(&self) -> &str {
        self.address.strip_prefix("http://").unwrap()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.address)
    }

    /// The folder of its config, which is its home.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until it has logged `text`: a line may come a moment after the answer it is about.
    pub(crate) async fn logged(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.log().contains(text) {
            assert!(Instant::now() < deadline, "nothing of {text:?} in the log");
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Gets `path`.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        client::get(&self.url(path)).await.unwrap()
    }

    /// Posts a chat request and reads the answer to its end.
    pub(crate) async fn chat(&self, body: impl Into<String>) -> Result<Answer, BoxError> {
        let url = self.url("/v1/chat/completions");
        post_json(&url, body.into(), &[]).await
    }

    pub(crate) async fn metrics(&self) -> Metrics {
        Metrics::new(self.get("/metrics").await.text().to_owned())
    }

    /// How much of its memory is resident.
    pub(crate) fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.unwrap().split_whitespace().next();
        number.unwrap().parse().unwrap()
    }

    /// Lets it open no file from now on whose descriptor is not below `most`; `None` lets it open as
    /// many as before.
    pub(crate) fn limit_descriptors(&self, most: Option<u64>) {
        use rustix::process::{Pid, Resource, Rlimit, prlimit};
        let id = Pid::from_raw(self.child.id().try_into().unwrap());
        // The limit of this process is the one that the gateway has inherited.
        let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
        let current = most.or(maximum);
        prlimit(id, Resource::Nofile, Rlimit { current, maximum }).unwrap();
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) {
        self.signal("-TERM");
    }

    /// Puts `config` in the place of its config, and asks it to read that.
    pub(crate) fn reload(&self, config: &str) {
        write_config(self.folder(), config);
        self.signal("-HUP");
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let kill = Command::new("kill").args([name, &id]).status().unwrap();
        assert!(kill.success());
    }

    /// Waits for its end and gives the exit code.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "it does not end");
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Asks it to end, and waits for that.
    pub(crate) async fn stop(&mut self) -> Option<i32> {
        self.terminate();
        self.ended().await
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It may have ended already.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
        if let Some(logging) = self.logging.take() {
            logging.join().unwrap();
        }
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().rev().take(40).collect();
            eprintln!("--- the end of the gateway's log, last line first");
            lines.iter().for_each(|line| eprintln!("{line}"));
        }
    }
}

// === impl Metrics ===

impl Metrics {
    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }

    /// The sum of the samples of `name`, whatever their labels.
    pub(crate) fn sum(&self, name: &str) -> u64 {
        let samples = self.0.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let value = rest
                .starts_with([' ', '{'])
                .then(|| rest.rsplit(' ').next())?;
            value?.parse::<u64>().ok()
        });
        let samples: Vec<_> = samples.collect();
        assert!(!samples.is_empty(), "no {name} in {}", self.0);
        samples.iter().sum()
    }
}

/// An upstream that paces nothing. `more` are further keys, then tables.
pub(crate) fn upstream(base_url: &str, more: &str) -> String {
    named_upstream("sim", base_url, more)
}

/// The same under a name.
pub(crate) fn named_upstream(name: &str, base_url: &str, more: &str) -> String {
    format!(
        "[[upstream]]\nname = \"{name}\"\npreset = \"local\"\nbase-url = \"{base_url}\"\n{more}\n"
    )
}

fn write_config(folder: &Path, config: &str) -> PathBuf {
    let listen = if config.contains("listen =") {
        ""
    } else {
        "listen = \"127.0.0.1:0\"\n"
    };
    let log = if config.contains("log =") {
        ""
    } else {
        "log = { level = \"debug\", format = \"json\" }\n"
    };
    let path = folder.join("pacegate.toml");
    // In one piece: it may be read at any moment.
    let half = folder.join("pacegate.toml.half");
    fs::write(&half, format!("{listen}{log}{config}")).unwrap();
    fs::rename(half, &path).unwrap();
    path
}

/// The command, in an environment that holds nothing but a home.
fn serve(folder: &Path, config: &str) -> Command {
    let path = write_config(folder, config);
    let mut command = Command::new(program());
    command
        .args(["serve", "--config"])
        .arg(path)
        .current_dir(folder)
        .env_clear()
        .env("HOME", folder);
    command
}

/// `command` as a process that may open so many files.
pub(crate) fn limited(most: usize, command: &Command) -> Command {
    let mut limited = Command::new("/bin/sh");
    limited
        .args(["-c", &format!("ulimit -n {most} && exec \"$0\" \"$@\"")])
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear()
        .envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
    if let Some(folder) = command.get_current_dir() {
        limited.current_dir(folder);
    }
    limited
}

/// `PACEGATE_PROGRAM`, such as a release build, or what was built with the tests.
fn program() -> PathBuf {
    let named = env::var_os("PACEGATE_PROGRAM").map(PathBuf::from);
    named.unwrap_or_else(|| env!("CARGO_BIN_EXE_pacegate").into())
}

/// Whether the program is a debug build. One that was named is not.
pub(crate) fn is_debug() -> bool {
    cfg!(debug_assertions) && env::var_os("PACEGATE_PROGRAM").is_none()
}
