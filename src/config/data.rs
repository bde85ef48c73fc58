//! The files of `config/`, compiled in.

use std::fs;

use super::{
    cursor::Cursor,
    error::{Problem, suggestion},
    provenance::Provenance,
    source,
    tree::{self, Node},
};

/// A folder of `config/` whose files are chosen by name.
#[derive(Clone, Copy, Debug)]
pub(super) enum Folder {
    Dialects,
    Presets,
    Profiles,
    Throttle,
}

include!(concat!(env!("OUT_DIR"), "/config_files.rs"));

/// The sample of `opencode.jsonc`, for people to copy.
pub fn opencode_sample() -> &'static str {
    text("opencode.jsonc").unwrap_or_default()
}

/// The names of the presets, sorted.
pub fn presets() -> Vec<&'static str> {
    Folder::Presets.names()
}

/// The names of the throttle profiles, sorted.
pub fn throttle_profiles() -> Vec<&'static str> {
    Folder::Throttle.names()
}

/// The tree of `config/pacegate.toml`.
pub(super) fn built_in() -> Result<Node, Problem> {
    parse("pacegate.toml", Provenance::BuiltIn)
}

/// The defaults of every upstream.
pub(super) fn upstream() -> Result<Node, Problem> {
    parse("upstream.toml", Provenance::BuiltIn)
}

// === impl Folder ===

impl Folder {
    /// The names that may be chosen, sorted.
    pub(super) fn names(self) -> Vec<&'static str> {
        FILES
            .iter()
            .filter_map(|(path, _)| {
                path.strip_prefix(self.path())?
                    .strip_prefix('/')?
                    .strip_suffix(".toml")
            })
            .collect()
    }

    /// The tree of the file `name`, if there is one.
    pub(super) fn read(self, name: &str) -> Option<Result<Node, Problem>> {
        let path = format!("{}/{name}.toml", self.path());
        text(&path)?;
        let provenance = match self {
            Self::Dialects => Provenance::Dialect(name.into()),
            Self::Presets => Provenance::Preset(name.into()),
            Self::Profiles => Provenance::Profile(name.into()),
            Self::Throttle => Provenance::Throttle(name.into()),
        };
        Some(parse(&path, provenance))
    }

    /// The tree of the file whose name or path is the value of `cursor`; `what` describes the file
    /// in messages.
    pub(super) fn open(self, cursor: &Cursor<'_>, what: &str) -> Option<Node> {
        let name = cursor.str()?;
        let tree = if name.contains('/') || name.ends_with(".toml") {
            let path = cursor.file()?;
            match fs::read_to_string(&path) {
                Ok(text) => source::parse_file(&path, &text),
                Err(error) => {
                    return cursor.refuse(
                        format!("cannot read the {what} {}: {error}", path.display()),
                        "relative paths start at the file that names them",
                    );
                }
            }
        } else {
            match self.read(name) {
                Some(tree) => tree,
                None => {
                    return cursor.refuse(
                        format!("unknown {what} \"{name}\""),
                        suggestion(name, &self.names()),
                    );
                }
            }
        };
        tree.map_err(|problem| cursor.scope.note(problem)).ok()
    }

    fn path(self) -> &'static str {
        match self {
            Self::Dialects => "dialects",
            Self::Presets => "presets",
            Self::Profiles => "profiles",
            Self::Throttle => "throttle",
        }
    }
}

fn parse(path: &str, provenance: Provenance) -> Result<Node, Problem> {
    tree::parse(text(path).unwrap_or_default(), |_line| provenance.clone())
}

fn text(path: &str) -> Option<&'static str> {
    FILES
        .iter()
        .find_map(|(name, text)| (*name == path).then_some(*text))
}
