//! Tests of the configuration: the shipped data, what people write, and what the program prints.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use pacegate::config::{self, Config, ConfigSource, Loaded};
use tempfile::TempDir;

mod bad_input;
mod commands;
mod data;
mod deployment;
mod dialect_files;
mod search;

/// A home of its own, and the variables that are set.
struct Home {
    folder: TempDir,
    variables: Vec<(&'static str, String)>,
}

impl Home {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            variables: Vec::new(),
        }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn variable(&self, name: &str) -> Option<String> {
        let set = self
            .variables
            .iter()
            .rev()
            .find(|(other, _)| *other == name);
        match set {
            Some((_, value)) => Some(value.clone()),
            None => (name == "HOME").then(|| self.path().display().to_string()),
        }
    }

    fn load(&self, change: impl FnOnce(&mut ConfigSource<'_>)) -> Result<Loaded, String> {
        let env = |name: &str| self.variable(name);
        let mut source = ConfigSource::new(&env);
        change(&mut source);
        config::load(&source).map_err(|error| error.to_string())
    }

    /// Loads `text` as the file named on the command line.
    fn file(&self, text: &str) -> Result<Loaded, String> {
        let path = self.write("pacegate.toml", text);
        self.load(|source| source.config = Some(path))
            .map_err(|error| error.replace(&format!("{}/", self.path().display()), ""))
    }

    fn preset(&self, name: &str) -> Config {
        self.load(|source| source.preset = Some(name.into()))
            .unwrap()
            .config
    }
}

/// What is wrong with `text`, without the way to the file.
fn refused(text: &str) -> String {
    Home::new().file(text).unwrap_err()
}
