//! Where the values of a configuration came from.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::tree::{Node, Value, inline_key};

/// Where one value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Provenance {
    /// pacegate's own default.
    BuiltIn,
    /// A file in `config/dialects/`.
    Dialect(Arc<str>),
    /// The user's file.
    File {
        /// The path as the user named it.
        path: Arc<Path>,
        /// Counted from 1.
        line: usize,
    },
    /// A command-line option.
    Flag(&'static str),
    /// A file in `config/presets/`.
    Preset(Arc<str>),
    /// A file in `config/profiles/`.
    Profile(Arc<str>),
    /// A throttle profile.
    Throttle(Arc<str>),
}

/// Every value of a configuration with its provenance.
///
/// `Display` is the output of `pacegate config show`: TOML, one value a line, the provenance as a
/// comment. Secrets are shown as their references.
#[derive(Clone, Debug)]
pub struct AnnotatedConfig {
    root: Node,
}

// === impl Provenance ===

impl Provenance {
    /// The line in the user's file.
    pub(super) fn line(&self) -> Option<usize> {
        match self {
            Self::File { line, .. } => Some(*line),
            _ => None,
        }
    }

    /// `path`, which was written here, relative to the working directory.
    pub(super) fn beside(&self, path: &Path) -> PathBuf {
        match self {
            Self::File { path: file, .. } => file
                .parent()
                .map_or(path.into(), |folder| folder.join(path)),
            _ => path.into(),
        }
    }

    /// Whether the user wrote it, rather than pacegate's own data.
    pub(super) fn is_written(&self) -> bool {
        matches!(self, Self::File { .. } | Self::Flag(_))
    }
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("built-in"),
            Self::Dialect(name) => write!(f, "dialect {name}"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Flag(name) => f.write_str(name),
            Self::Preset(name) => write!(f, "preset {name}"),
            Self::Profile(name) => write!(f, "profile {name}"),
            Self::Throttle(name) => write!(f, "throttle profile {name}"),
        }
    }
}

// === impl AnnotatedConfig ===

impl AnnotatedConfig {
    pub(super) fn new(root: Node) -> Self {
        Self { root }
    }
}

impl fmt::Display for AnnotatedConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut top = Vec::new();
        let mut upstreams = Vec::new();
        for (key, node) in self.root.entries() {
            match &node.value {
                Value::Array(nodes) if key == "upstream" => upstreams.extend(nodes),
                _ => leaves(key.clone(), node, &mut top),
            }
        }
        aligned(f, &top)?;
        for upstream in upstreams {
            writeln!(f, "\n[[upstream]]")?;
            let mut lines = Vec::new();
            for (key, node) in upstream.entries() {
                leaves(key.clone(), node, &mut lines);
            }
            aligned(f, &lines)?;
        }
        Ok(())
    }
}

/// Flattens tables to dotted keys, because each value has its own provenance.
fn leaves<'a>(key: String, node: &'a Node, lines: &mut Vec<(String, String, &'a Provenance)>) {
    match &node.value {
        Value::Table(entries) if !entries.is_empty() && !key.ends_with(".key") => {
            for (name, node) in entries {
                leaves(format!("{key}.{}", inline_key(name)), node, lines);
            }
        }
        _ => lines.push((key, node.to_string(), &node.provenance)),
    }
}

fn aligned(f: &mut fmt::Formatter<'_>, lines: &[(String, String, &Provenance)]) -> fmt::Result {
    /// A longer value does not push the other comments to the right.
    const VALUE_WIDTH: usize = 40;
    let width = |of: fn(&(String, String, &Provenance)) -> usize| lines.iter().map(of).max();
    let keys = width(|(key, _, _)| key.len()).unwrap_or_default();
    let values = width(|(_, value, _)| value.len())
        .unwrap_or_default()
        .min(VALUE_WIDTH);
    for (key, value, provenance) in lines {
        writeln!(f, "{key:keys$} = {value:values$}  # {provenance}")?;
    }
    Ok(())
}
