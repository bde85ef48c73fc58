//! Loads a complete configuration from a [`ConfigSource`].

use std::{cell::RefCell, fs, path::PathBuf};

use super::{
    AnnotatedConfig, Config, ConfigSource, Error, Notice, Provenance,
    cursor::{Cursor, Scope, Secrets},
    data,
    error::Problem,
    notice, pipeline, server, source,
    tree::{Node, Value},
    upstream,
};

/// A usable configuration, its provenance, and notices about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Each value with its provenance.
    pub annotated: AnnotatedConfig,
    /// The source of the whole: a file, `preset NAME` or `built-in default`.
    pub source: String,
    /// Settings that have less effect than they seem to.
    pub notices: Vec<Notice>,
}

/// A configuration to inspect, whatever the usual sources hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sample {
    /// The built-in default.
    BuiltIn,
    /// The configuration of this file.
    File(PathBuf),
    /// This preset as the only upstream.
    Preset(String),
    /// The built-in default with this throttle profile.
    Throttle(String),
}

/// Finds, merges and checks a configuration, and reads the secrets that it refers to. Blocks while
/// reading files.
///
/// # Errors
///
/// [`Error`] with every problem found.
pub fn load(source: &ConfigSource<'_>) -> Result<Loaded, Error> {
    let Merged {
        root,
        name,
        rearranged,
    } = merged(source)?;
    let config = read(&root, source, Secrets::Resolved)?;
    Ok(Loaded {
        notices: notice::notices(&config, rearranged),
        annotated: AnnotatedConfig::new(root),
        source: name,
        config,
    })
}

/// Loads the same without its secrets, for commands that send nothing with them: secrets may be
/// missing, and are empty.
///
/// # Errors
///
/// [`Error`] with every other problem found.
pub fn without_secrets(source: &ConfigSource<'_>) -> Result<Config, Error> {
    let Merged { root, .. } = merged(source)?;
    read(&root, source, Secrets::Unresolved)
}

/// Loads each value with its provenance; secrets may be missing.
///
/// # Errors
///
/// [`Error`] with every other problem found.
pub fn annotated(source: &ConfigSource<'_>) -> Result<AnnotatedConfig, Error> {
    let Merged { root, .. } = merged(source)?;
    read(&root, source, Secrets::Unresolved)?;
    Ok(AnnotatedConfig::new(root))
}

/// Merges and checks `sample` for commands that send nothing with it: secrets may be missing.
///
/// # Errors
///
/// [`Error`] with every other problem found.
pub fn sample(sample: &Sample, env: &dyn Fn(&str) -> Option<String>) -> Result<Config, Error> {
    let mut root = data::built_in()?;
    match sample {
        Sample::BuiltIn => {}
        Sample::File(path) => {
            let text = fs::read_to_string(path).map_err(|error| {
                Problem::new(format!("cannot read {}: {error}", path.display()))
            })?;
            root.merge(source::parse_file(path, &text)?);
        }
        Sample::Preset(name) => root.set("upstream", only_upstream(name)),
        Sample::Throttle(name) => choose_throttle(&mut root, name),
    }
    complete_upstreams(&mut root)?;
    let _nobody_is_told = arrange_pipelines(&mut root);
    read(&root, &ConfigSource::new(env), Secrets::Unresolved)
}

/// The profile's values apply, since nothing else is written beside it.
fn choose_throttle(root: &mut Node, name: &str) {
    let Some(Value::Array(upstreams)) = root.get_mut("upstream").map(|node| &mut node.value) else {
        return;
    };
    for upstream in upstreams {
        let provenance = Provenance::Throttle(name.into());
        let mut table = Node::table(provenance.clone());
        table.set("profile", Node::text(provenance, name));
        upstream.set("jitter-throttle", table);
    }
}

/// The merged tree of all values.
struct Merged {
    root: Node,
    /// The name of their source.
    name: String,
    /// The first upstream whose pipeline was listed in another order than the fixed one.
    rearranged: Option<usize>,
}

fn merged(source: &ConfigSource<'_>) -> Result<Merged, Error> {
    let mut root = data::built_in()?;
    let mut name = "built-in default".to_owned();
    if let Some(found) = source.find()? {
        name = found.path.display().to_string();
        root.merge(found.tree);
    } else if let Some(preset) = &source.preset {
        name = format!("preset {preset}");
        root.set("upstream", only_upstream(preset));
    }

    set(&mut root, &["listen"], "--listen", source.listen.as_deref());
    let level = source.log_level.as_deref();
    set(&mut root, &["log", "level"], "--log-level", level);
    let format = source.log_format.as_deref();
    set(&mut root, &["log", "format"], "--log-format", format);

    complete_upstreams(&mut root)?;
    Ok(Merged {
        rearranged: arrange_pipelines(&mut root),
        root,
        name,
    })
}

fn only_upstream(preset: &str) -> Node {
    let provenance = Provenance::Flag("--preset");
    let mut upstream = Node::table(provenance.clone());
    upstream.set("preset", Node::text(provenance.clone(), preset));
    Node {
        provenance,
        value: Value::Array(vec![upstream]),
    }
}

/// Sets the value of a command-line option, which wins.
fn set(root: &mut Node, path: &[&str], flag: &'static str, value: Option<&str>) {
    let (Some(value), [tables @ .., key]) = (value, path) else {
        return;
    };
    let table = tables
        .iter()
        .try_fold(root, |node, table| node.get_mut(table));
    if let Some(table) = table {
        table.set(key, Node::text(Provenance::Flag(flag), value));
    }
}

/// Anything but tables is left for the reader to refuse.
fn complete_upstreams(root: &mut Node) -> Result<(), Vec<Problem>> {
    let Some(Value::Array(upstreams)) = root.get_mut("upstream").map(|node| &mut node.value) else {
        return Ok(());
    };
    let mut problems = Vec::new();
    for (index, node) in upstreams.iter_mut().enumerate() {
        if let Value::Table(_) = node.value {
            match upstream::with_defaults(node.clone(), &format!("upstream[{index}]")) {
                Ok(complete) => *node = complete,
                Err(problem) => problems.push(problem),
            }
        }
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems)
    }
}

/// Puts every pipeline into the fixed order. Returns the first one that was in another order.
fn arrange_pipelines(root: &mut Node) -> Option<usize> {
    let Some(Value::Array(upstreams)) = root.get_mut("upstream").map(|node| &mut node.value) else {
        return None;
    };
    let rearranged: Vec<_> = upstreams.iter_mut().map(pipeline::arrange).collect();
    rearranged.into_iter().position(|rearranged| rearranged)
}

fn read(root: &Node, source: &ConfigSource<'_>, secrets: Secrets) -> Result<Config, Error> {
    let scope = Scope {
        env: source.env,
        platform: source.platform,
        secrets,
        problems: RefCell::default(),
    };
    let config = server::config(&Cursor::root(root, &scope));
    let problems = scope.problems.into_inner();
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(problems.into()),
    }
}
