//! Finds the configuration file.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    Platform,
    error::Problem,
    provenance::Provenance,
    tree::{self, Node},
};

/// Where to load a configuration from.
#[derive(Clone)]
pub struct ConfigSource<'a> {
    /// The file named on the command line.
    pub config: Option<PathBuf>,
    /// The preset named on the command line: no file is read, and it is the only upstream.
    pub preset: Option<String>,
    /// `--listen`, which wins over the file.
    pub listen: Option<String>,
    /// `--log-level`, which wins over the file.
    pub log_level: Option<String>,
    /// `--log-format`, which wins over the file.
    pub log_format: Option<String>,
    /// Looks up an environment variable.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// The placeholders of header profiles.
    pub platform: Platform,
}

/// A configuration file that was found.
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) tree: Node,
}

impl<'a> ConfigSource<'a> {
    /// A source with the default paths, no command-line options, and this machine's platform.
    pub fn new(env: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self {
            config: None,
            preset: None,
            listen: None,
            log_level: None,
            log_format: None,
            env,
            platform: Platform::current(),
        }
    }

    /// The file to read; `None` if none was named and no default path has one.
    pub(super) fn find(&self) -> Result<Option<Found>, Problem> {
        let named = match (&self.config, &self.preset) {
            (Some(path), _) => Some((path.clone(), "--config")),
            (None, Some(_)) => return Ok(None),
            (None, None) => self
                .variable("PACEGATE_CONFIG")
                .map(|path| (path.into(), "PACEGATE_CONFIG")),
        };
        if let Some((path, by)) = named {
            let text = fs::read_to_string(&path).map_err(|error| {
                Problem::new(format!("cannot read {}: {error}", path.display()))
                    .hint(format!("{by} names this file"))
            })?;
            return Found::parse(path, &text).map(Some);
        }
        for path in self.usual_places() {
            match fs::read_to_string(&path) {
                Ok(text) => return Found::parse(path, &text).map(Some),
                Err(error) if is_absence(&error) => {}
                Err(error) => {
                    let problem = format!("cannot read {}: {error}", path.display());
                    return Err(Problem::new(problem)
                        .hint("make it readable, or name another file with --config"));
                }
            }
        }
        Ok(None)
    }

    fn usual_places(&self) -> Vec<PathBuf> {
        // https://specifications.freedesktop.org/basedir-spec: a relative path is to be ignored.
        let config_home = self
            .variable("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .or_else(|| Some(Path::new(&self.variable("HOME")?).join(".config")));
        config_home
            .into_iter()
            .chain([PathBuf::from("/etc")])
            .map(|folder| folder.join("pacegate/pacegate.toml"))
            .collect()
    }

    /// An empty variable counts as unset.
    fn variable(&self, name: &str) -> Option<String> {
        (self.env)(name).filter(|value| !value.is_empty())
    }
}

// === impl Found ===

impl Found {
    fn parse(path: PathBuf, text: &str) -> Result<Self, Problem> {
        let tree = parse_file(&path, text)?;
        Ok(Self { path, tree })
    }
}

/// Parses a user's file.
pub(super) fn parse_file(path: &Path, text: &str) -> Result<Node, Problem> {
    let shared: std::sync::Arc<Path> = path.into();
    tree::parse(text, |line| Provenance::File {
        path: shared.clone(),
        line,
    })
}

fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}
