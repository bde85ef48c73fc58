//! A program that is gone when its test is.

use std::{
    fs::{self, File},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use tokio::time::{sleep, timeout};

/// A child in a process group of its own, so that what it starts ends with it.
pub(crate) struct Program {
    child: Child,
    stderr: PathBuf,
    stdout: PathBuf,
}

impl Program {
    /// Starts `command`. Its output goes to files in `folder`: a pipe that nobody reads would stop it.
    pub(crate) fn start(command: &mut Command, folder: &Path, name: &str) -> Self {
        let stdout = folder.join(format!("{name}.stdout"));
        let stderr = folder.join(format!("{name}.stderr"));
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&stderr).unwrap())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self {
            child,
            stderr,
            stdout,
        }
    }

    /// Waits for its end; panics, showing what it wrote, if that takes longer than `limit`.
    pub(crate) async fn end(&mut self, limit: Duration) -> ExitStatus {
        let ended = timeout(limit, async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status;
                }
                sleep(GLANCE).await;
            }
        });
        match ended.await {
            Ok(status) => status,
            Err(_elapsed) => panic!("no end after {limit:?}\n{}", self.output()),
        }
    }

    /// Whether it has not ended.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// What it has written to stdout so far.
    pub(crate) fn stdout(&self) -> String {
        fs::read_to_string(&self.stdout).unwrap()
    }

    /// Everything that it has written so far.
    pub(crate) fn output(&self) -> String {
        let stderr = fs::read_to_string(&self.stderr).unwrap();
        format!("stdout:\n{}\nstderr:\n{stderr}", self.stdout())
    }

    /// The same as a quotation: a line of a test inside a test is nobody's to count.
    pub(crate) fn quoted(&self) -> String {
        let output = self.output();
        output.lines().map(|line| format!("  | {line}\n")).collect()
    }

    /// Asks it to end, as a container's runtime would.
    pub(crate) fn terminate(&self) {
        self.signal("-TERM").unwrap();
    }

    fn signal(&self, signal: &str) -> io::Result<ExitStatus> {
        // The whole group: an id below zero names one.
        let group = format!("-{}", self.child.id());
        Command::new("kill").args([signal, "--", &group]).status()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Only what still runs: the number of one that has been waited for may be anybody's.
        if let Ok(None) = self.child.try_wait() {
            let _gone_meanwhile = self.signal("-KILL");
            let _reaped = self.child.wait();
        }
    }
}

/// How often to look whether a program has ended.
const GLANCE: Duration = Duration::from_millis(50);
