//! Containers, and a network for each test that runs one.

use std::{
    env,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{self, Command, Output},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use serde_json::Value;

use crate::{gateway::listening, program::Program};

/// The engine: a runtime and control groups that ask for no service manager.
const ENGINE: [&str; 3] = ["--runtime", "runc", "--cgroup-manager=cgroupfs"];

/// How a container is run: what the README says, and the limits of root on any machine.
const LOCKED_DOWN: [&str; 12] = [
    "run",
    "--rm",
    "--network=host",
    "--ulimit",
    "nofile=1024:1024",
    "--ulimit",
    "nproc=1024:1024",
    "--read-only",
    "--cap-drop",
    "all",
    "--security-opt",
    "no-new-privileges",
];

/// Nothing here takes longer unless it hangs, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(120);

/// Set where the network is the test's own.
const INSIDE: &str = "PACEGATE_TEST_INSIDE";

/// Tells the containers of one run from each other.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// A running container. It is removed when dropped.
pub(crate) struct Container {
    name: String,
    program: Program,
    _folder: tempfile::TempDir,
}

/// A volume that is new. It is removed when dropped.
pub(crate) struct Volume(String);

/// Whether this is the inside. If not, the test has been run there.
pub(crate) async fn inside(test: &str) -> bool {
    if env::var_os(INSIDE).is_some() {
        return true;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut inside = Program::start(
        Command::new("unshare")
            .args(["--net", "--mount", "sh", "-c"])
            .args([r#"ip link set lo up && exec "$@""#, "sh"])
            .arg(env::current_exe().unwrap())
            .args(["--exact", &format!("container::{test}"), "--nocapture"])
            .env(INSIDE, "1"),
        folder.path(),
        "inside",
    );
    let status = inside.end(PATIENCE * 2).await;
    assert!(status.success(), "{status}\n{}", inside.quoted());
    assert!(inside.stdout().contains(" 1 passed"), "no such test");
    false
}

/// What the engine says of the image.
pub(crate) fn inspect_image() -> Value {
    let said = podman(&["image", "inspect", &image()]).stdout;
    let mut images: Value = serde_json::from_slice(&said).unwrap();
    images[0].take()
}

/// Runs a command of the engine's that has to go well.
pub(crate) fn podman(arguments: &[&str]) -> Output {
    let output = try_podman(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    output
}

/// A directory in `folder` that the image's user may write.
pub(crate) fn state_in(folder: &Path) -> PathBuf {
    let state = folder.join("state");
    std::fs::create_dir(&state).unwrap();
    chown(&state, Some(65532), Some(65532)).unwrap();
    state
}

fn image() -> String {
    env::var("PACEGATE_IMAGE").expect("PACEGATE_IMAGE names no image; tests/run builds one")
}

fn try_podman(arguments: &[&str]) -> Output {
    let mut command = Command::new("podman");
    command.args(ENGINE).args(arguments).output().unwrap()
}

fn unique() -> String {
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("pacegate-test-{}-{count}", process::id())
}

// === impl Container ===

impl Container {
    /// Runs the image with `key` in its environment, what is mounted where, and `arguments`.
    pub(crate) fn start(key: Option<&str>, mounts: &[(&Path, &str)], arguments: &[&str]) -> Self {
        Self::start_with(&[], key, mounts, arguments)
    }

    /// The same with more options for the engine.
    pub(crate) fn start_with(
        options: &[&str],
        key: Option<&str>,
        mounts: &[(&Path, &str)],
        arguments: &[&str],
    ) -> Self {
        let name = unique();
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("podman");
        command.args(ENGINE).args(LOCKED_DOWN).args(options);
        command.args(["--name", &name]);
        if let Some(key) = key {
            command.args(["--env", &format!("PACEGATE_CLIENT_KEY={key}")]);
        }
        for (from, to) in mounts {
            command.args(["--volume", &format!("{}:{to}", from.display())]);
        }
        command.arg(image()).args(arguments);
        Self {
            program: Program::start(&mut command, folder.path(), "podman"),
            name,
            _folder: folder,
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Waits for its first line.
    pub(crate) async fn listening(&mut self) {
        listening(&mut self.program).await;
    }

    /// What its own check says.
    pub(crate) fn is_healthy(&self) -> bool {
        let said = try_podman(&["healthcheck", "run", &self.name]);
        said.status.success()
    }

    /// The folder of its process in `/proc`.
    pub(crate) fn process(&self) -> PathBuf {
        let id = podman(&["inspect", "--format", "{{.State.Pid}}", &self.name]).stdout;
        Path::new("/proc").join(String::from_utf8(id).unwrap().trim())
    }

    /// Asks it to end, as `stop` does.
    pub(crate) fn terminate(&self) {
        podman(&["kill", "--signal", "TERM", &self.name]);
    }

    /// Waits for its end and gives its exit code.
    pub(crate) async fn end(&mut self) -> Option<i32> {
        self.program.end(PATIENCE).await.code()
    }

    pub(crate) fn output(&self) -> String {
        self.program.output()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _gone = try_podman(&["rm", "--force", "--time", "0", &self.name]);
    }
}

// === impl Volume ===

impl Volume {
    pub(crate) fn new() -> Self {
        let name = unique();
        podman(&["volume", "create", &name]);
        Self(name)
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _gone = try_podman(&["volume", "rm", "--force", &self.0]);
    }
}
