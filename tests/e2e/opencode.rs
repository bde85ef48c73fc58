//! The real OpenCode, headless, in a home of its own.
//!
//! `PACEGATE_OPENCODE` names its binary. `tests/run` installs the one that these tests were written
//! against and sets it.

use std::{env, fs, path::Path, process::Command, time::Duration};

use crate::program::Program;

/// The sample that people are told to use.
const SAMPLE: &str = include_str!("../../config/opencode.jsonc");

/// The sample's base URL: what it says for a gateway on its default port.
const DEFAULT_BASE_URL: &str = "http://127.0.0.1:7223/v1";

/// Nothing of this is about the gateway: without it, OpenCode might take a model for titles from
/// another provider, which it would have to reach over the network.
const PROJECT: &str =
    r#"{ "enabled_providers": ["pacegate"], "autoupdate": false, "share": "disabled" }"#;

/// A run takes four seconds, and up to seventy when OpenCode tries again six times; a busy machine
/// may take a few times as long.
const LIMIT: Duration = Duration::from_secs(300);

/// What a run printed.
#[derive(Debug)]
pub(crate) struct Run {
    /// The model's answer.
    pub(crate) answer: String,
    /// Everything, for the message of a test that fails.
    pub(crate) output: String,
}

/// Asks one question in a fresh session, with `base_url` and no key.
pub(crate) async fn ask(base_url: &str, home: &Path) -> Run {
    let binary = env::var_os("PACEGATE_OPENCODE")
        .expect("PACEGATE_OPENCODE names no OpenCode; tests/run installs one and sets it");
    let [config, project, temporary] =
        ["config/opencode", "project", "tmp"].map(|name| home.join(name));
    for folder in [&config, &project, &temporary] {
        fs::create_dir_all(folder).unwrap();
    }
    assert!(SAMPLE.contains(DEFAULT_BASE_URL), "the sample has changed");
    let sample = SAMPLE.replace(DEFAULT_BASE_URL, base_url);
    fs::write(config.join("opencode.jsonc"), sample).unwrap();
    fs::write(project.join("opencode.json"), PROJECT).unwrap();

    let mut command = Command::new(binary);
    command
        .args(["run", "-m", "pacegate/coder-model", "--", "Say something."])
        .current_dir(&project)
        .env_clear()
        .envs(env::var_os("PATH").map(|path| ("PATH", path)))
        .envs([
            ("LANG", "C.UTF-8"),
            ("NO_COLOR", "1"),
            ("TERM", "dumb"),
            ("OPENCODE_DISABLE_AUTOUPDATE", "1"),
            ("OPENCODE_DISABLE_DEFAULT_PLUGINS", "1"),
            ("OPENCODE_DISABLE_LSP_DOWNLOAD", "1"),
            ("OPENCODE_DISABLE_MODELS_FETCH", "1"),
            ("OPENCODE_DISABLE_SHARE", "1"),
        ])
        .env("HOME", home)
        .env("TMPDIR", &temporary)
        .envs(
            [
                ("XDG_CACHE_HOME", "cache"),
                ("XDG_CONFIG_HOME", "config"),
                ("XDG_DATA_HOME", "data"),
                ("XDG_STATE_HOME", "state"),
            ]
            .map(|(name, folder)| (name, home.join(folder))),
        );
    let mut opencode = Program::start(&mut command, home, "opencode");
    opencode.end(LIMIT).await;
    Run {
        answer: opencode.stdout(),
        output: opencode.output(),
    }
}
