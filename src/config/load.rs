//! From a [`Source`] to a complete configuration.

use std::{cell::RefCell, fs, path::PathBuf};

use super::{
    Config, Error, Notice, Origin, Origins, Source,
    cursor::{Cursor, Scope, Secrets},
    data,
    error::Problem,
    notice, order, server, source,
    tree::{Node, Value},
    upstream,
};

/// A configuration that can be used, and what there is to say about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Where each value came from.
    pub origins: Origins,
    /// Where it came from as a whole: a file, `preset NAME` or `built-in default`.
    pub source: String,
    /// What has less effect here than its words say.
    pub notices: Vec<Notice>,
}

/// A configuration to look at, wherever else others may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sample {
    /// The one that holds when nobody says anything.
    BuiltIn,
    /// What this file says.
    File(PathBuf),
    /// The preset of this name as the only upstream.
    Preset(String),
    /// The built-in one, but with the throttle profile of this name.
    Throttle(String),
}

/// Finds, merges and checks a configuration, and reads the secrets that it refers to.
///
/// # Errors
///
/// Everything that is wrong with it, as far as it can be told apart.
pub fn load(source: &Source<'_>) -> Result<Loaded, Error> {
    let Merged {
        root,
        name,
        rearranged,
    } = merged(source)?;
    let config = read(&root, source, Secrets::Resolved)?;
    Ok(Loaded {
        notices: notice::notices(&config, rearranged),
        origins: Origins::new(root),
        source: name,
        config,
    })
}

/// The same without the secrets, for those who send nothing with them: they may be missing, and
/// are empty.
///
/// # Errors
///
/// Everything else that is wrong with it.
pub fn without_secrets(source: &Source<'_>) -> Result<Config, Error> {
    let Merged { root, .. } = merged(source)?;
    read(&root, source, Secrets::LeftAlone)
}

/// Where each value came from; secrets may be missing.
///
/// # Errors
///
/// Everything else that is wrong with it.
pub fn origins(source: &Source<'_>) -> Result<Origins, Error> {
    let Merged { root, .. } = merged(source)?;
    read(&root, source, Secrets::LeftAlone)?;
    Ok(Origins::new(root))
}

/// Merges and checks `sample` for somebody who sends nothing with it: secrets may be missing.
///
/// # Errors
///
/// Everything else that is wrong with it.
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
    read(&root, &Source::new(env), Secrets::LeftAlone)
}

/// The profile's values then come from there, since nothing beside it is written.
fn choose_throttle(root: &mut Node, name: &str) {
    let Some(Value::Array(upstreams)) = root.get_mut("upstream").map(|node| &mut node.value) else {
        return;
    };
    for upstream in upstreams {
        let origin = Origin::Throttle(name.into());
        let mut table = Node::table(origin.clone());
        table.set("profile", Node::text(origin, name));
        upstream.set("jitter-throttle", table);
    }
}

/// The tree of all values.
struct Merged {
    root: Node,
    /// Where they came from.
    name: String,
    /// The first upstream whose pipeline was listed in another order than the one that runs.
    rearranged: Option<usize>,
}

fn merged(source: &Source<'_>) -> Result<Merged, Error> {
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
    let origin = Origin::Flag("--preset");
    let mut upstream = Node::table(origin.clone());
    upstream.set("preset", Node::text(origin.clone(), preset));
    Node {
        origin,
        value: Value::Array(vec![upstream]),
    }
}

/// What the command line says wins.
fn set(root: &mut Node, path: &[&str], flag: &'static str, value: Option<&str>) {
    let (Some(value), [tables @ .., key]) = (value, path) else {
        return;
    };
    let table = tables
        .iter()
        .try_fold(root, |node, table| node.get_mut(table));
    if let Some(table) = table {
        table.set(key, Node::text(Origin::Flag(flag), value));
    }
}

/// Something other than tables is left for the reader to refuse.
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

/// Puts every pipeline into the order that runs; the first one that was in another order.
fn arrange_pipelines(root: &mut Node) -> Option<usize> {
    let Some(Value::Array(upstreams)) = root.get_mut("upstream").map(|node| &mut node.value) else {
        return None;
    };
    let rearranged: Vec<_> = upstreams.iter_mut().map(order::arrange).collect();
    rearranged.into_iter().position(|rearranged| rearranged)
}

fn read(root: &Node, source: &Source<'_>, secrets: Secrets) -> Result<Config, Error> {
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
