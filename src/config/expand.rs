//! `~/`, `${NAME}` and `${NAME:-default}` in paths.

use std::path::PathBuf;

/// A variable that a path needs but that is not set.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unset {
    pub(super) name: String,
}

/// Expands variables first, then a leading `~`, so that a default may begin with one. An empty
/// variable counts as unset, as in the shell's `:-`.
pub(super) fn path(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<PathBuf, Unset> {
    let variable = |name: &str| env(name).filter(|value| !value.is_empty());
    let unset = |name: &str| Unset { name: name.into() };

    let mut path = String::new();
    let mut rest = text;
    while let Some((before, (inside, after))) = rest
        .split_once("${")
        .and_then(|(before, after)| Some((before, after.split_once('}')?)))
    {
        path.push_str(before);
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        match (variable(name), default) {
            (Some(value), _) => path.push_str(&value),
            (None, Some(default)) => path.push_str(default),
            (None, None) => return Err(unset(name)),
        }
        rest = after;
    }
    path.push_str(rest);

    match path.strip_prefix('~') {
        Some(below) if below.is_empty() || below.starts_with('/') => {
            let home = variable("HOME").ok_or_else(|| unset("HOME"))?;
            Ok(PathBuf::from(home + below))
        }
        _ => Ok(path.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(text: &str) -> Result<PathBuf, Unset> {
        path(text, &|name| match name {
            "HOME" => Some("/home/u".into()),
            "SET" => Some("/set".into()),
            "EMPTY" => Some(String::new()),
            _ => None,
        })
    }

    #[test]
    fn expands_the_home_and_variables() {
        for (text, expanded) in [
            ("~/a", "/home/u/a"),
            ("~", "/home/u"),
            ("~other/a", "~other/a"),
            ("/a~/$b", "/a~/$b"),
            ("${SET}/a", "/set/a"),
            ("${SET:-~/x}/a", "/set/a"),
            ("${EMPTY:-~/x}/a", "/home/u/x/a"),
            ("${NONE:-/d}/${SET}", "/d//set"),
            ("${open", "${open"),
        ] {
            assert_eq!(expand(text), Ok(expanded.into()), "{text}");
        }
    }

    #[test]
    fn names_the_variable_that_is_missing() {
        assert_eq!(
            expand("${NONE}/a").map_err(|unset| unset.name),
            Err("NONE".into())
        );
        assert_eq!(
            path("~/a", &|_| None).map_err(|unset| unset.name),
            Err("HOME".into())
        );
    }
}
