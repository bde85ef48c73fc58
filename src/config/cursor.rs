//! Reads a tree: converts each value to its type, notes each problem, and goes on.
//!
//! Readers return `None` once they have noted a problem, so that one problem does not hide the
//! next.

use std::{cell::RefCell, fmt::Display, num::NonZeroUsize, path::PathBuf, time::Duration};

use super::{
    error::{Problem, suggestion},
    expand,
    platform::Platform,
    provenance::Provenance,
    tree::{Node, Value},
    units,
};

/// The context of all readers.
pub(super) struct Scope<'a> {
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
    pub(super) platform: Platform,
    /// Whether secret references are followed.
    pub(super) secrets: Secrets,
    pub(super) problems: RefCell<Vec<Problem>>,
}

/// Whether secret references are resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Secrets {
    /// Only the reference's form is checked; the secret is empty.
    Unresolved,
    /// The reference must lead to a secret.
    Resolved,
}

/// One value, its key, and the place to note problems.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    pub(super) node: &'a Node,
    pub(super) scope: &'a Scope<'a>,
    /// The key, from the top of the file: `upstream[0].name`.
    key: String,
}

/// Reads the entries of a table. [`finish`](Self::finish) refuses the keys that were not read.
pub(super) struct TableReader<'a> {
    cursor: Cursor<'a>,
    known_keys: Vec<&'static str>,
}

// === impl Scope ===

impl Scope<'_> {
    pub(super) fn note(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }
}

// === impl Cursor ===

impl<'a> Cursor<'a> {
    pub(super) fn root(node: &'a Node, scope: &'a Scope<'a>) -> Self {
        Self {
            node,
            scope,
            key: String::new(),
        }
    }

    pub(super) fn provenance(&self) -> &'a Provenance {
        &self.node.provenance
    }

    pub(super) fn child(&self, key: &str, node: &'a Node) -> Self {
        let key = if self.key.is_empty() {
            key.into()
        } else {
            format!("{}.{key}", self.key)
        };
        Self {
            node,
            scope: self.scope,
            key,
        }
    }

    /// Notes a problem with this value.
    pub(super) fn note(&self, message: impl Into<String>, hint: impl Into<String>) {
        let problem = Problem::new(message).hint(hint);
        self.scope
            .note(problem.at(self.node.provenance.clone()).key(&self.key));
    }

    /// Notes a problem and returns `None`.
    pub(super) fn refuse<T>(
        &self,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Option<T> {
        self.note(message, hint);
        None
    }

    /// Notes that this value, which is shown, is not what was expected.
    pub(super) fn expected<T>(&self, what: &str, hint: impl Into<String>) -> Option<T> {
        let found = match &self.node.value {
            Value::Scalar(value) => value.to_string(),
            _ => self.node.kind().into(),
        };
        self.refuse(format!("expected {what}, found {found}"), hint)
    }

    /// Notes the same without showing the value, which may be a secret or of another type.
    fn expected_kind<T>(&self, what: &str, hint: &str) -> Option<T> {
        let found = self.node.kind();
        self.refuse(format!("expected {what}, found {found}"), hint)
    }

    pub(super) fn table(&self) -> Option<TableReader<'a>> {
        match self.node.value {
            Value::Table(_) => Some(TableReader {
                cursor: self.clone(),
                known_keys: Vec::new(),
            }),
            _ => self.expected_kind("a table", "write { key = value }, or a [table]"),
        }
    }

    pub(super) fn items(&self) -> Option<Vec<Self>> {
        let Value::Array(items) = &self.node.value else {
            return self.expected_kind("a list", "write [ … ]");
        };
        let item = |(index, node)| Self {
            node,
            scope: self.scope,
            key: format!("{}[{index}]", self.key),
        };
        Some(items.iter().enumerate().map(item).collect())
    }

    /// A list whose items `read` reads.
    pub(super) fn list<T>(&self, read: impl Fn(&Self) -> Option<T>) -> Option<Vec<T>> {
        // All items are read before the first failure returns, so that every problem is noted.
        let read: Vec<_> = self.items()?.iter().map(read).collect();
        read.into_iter().collect()
    }

    pub(super) fn str(&self) -> Option<&'a str> {
        match self.node.as_str() {
            Some(text) => Some(text),
            None => self.expected_kind("a string", "write it in quotes"),
        }
    }

    pub(super) fn string(&self) -> Option<String> {
        self.str().map(str::to_owned)
    }

    pub(super) fn strings(&self) -> Option<Vec<String>> {
        self.list(Self::string)
    }

    pub(super) fn bool(&self) -> Option<bool> {
        match &self.node.value {
            Value::Scalar(toml::Value::Boolean(value)) => Some(*value),
            _ => self.expected_kind("true or false", "write it without quotes"),
        }
    }

    /// A whole number from `least` to `most`.
    pub(super) fn integer<T: TryFrom<i64> + PartialOrd + Display>(
        &self,
        least: T,
        most: T,
    ) -> Option<T> {
        let number = match &self.node.value {
            Value::Scalar(toml::Value::Integer(number)) => T::try_from(*number).ok(),
            _ => None,
        };
        match number {
            Some(number) if (&least..=&most).contains(&&number) => Some(number),
            _ => self.expected(
                &format!("a whole number from {least} to {most}"),
                format!("write {least} or more, without quotes"),
            ),
        }
    }

    /// A whole number that isn't zero.
    pub(super) fn count(&self) -> Option<NonZeroUsize> {
        /// A larger number is a typing error.
        const MOST: usize = 1_000_000_000;
        NonZeroUsize::new(self.integer(1, MOST)?)
    }

    /// A string that `read` understands; `example` is one.
    pub(super) fn parse<T>(
        &self,
        what: &str,
        example: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        match self.node.as_str().and_then(read) {
            Some(value) => Some(value),
            None => self.expected(what, format!("write \"{example}\"")),
        }
    }

    pub(super) fn duration(&self) -> Option<Duration> {
        self.parse("a duration with its unit", "30s", units::duration)
    }

    /// One of the words in `known`.
    pub(super) fn choice<T: Copy>(&self, known: &[(&str, T)]) -> Option<T> {
        let word = self.str()?;
        let words: Vec<_> = known.iter().map(|(word, _)| *word).collect();
        match known.iter().find(|(known, _)| *known == word) {
            Some((_, value)) => Some(*value),
            None => self.expected(
                &format!("one of {}", words.join(", ")),
                suggestion(word, &words),
            ),
        }
    }

    pub(super) fn file(&self) -> Option<PathBuf> {
        self.path(self.str()?)
    }

    /// The path `text` of this value: `~` and variables expanded, relative to its file.
    pub(super) fn path(&self, text: &str) -> Option<PathBuf> {
        match expand::path(text, self.scope.env) {
            Ok(path) => Some(self.provenance().beside(&path)),
            Err(unset) => self.refuse(
                format!("{} is not set, and this path needs it", unset.name),
                "set it, or write an absolute path",
            ),
        }
    }
}

// === impl TableReader ===

impl<'a> TableReader<'a> {
    pub(super) fn get(&mut self, key: &'static str) -> Option<Cursor<'a>> {
        self.known_keys.push(key);
        let node = self.cursor.node.get(key)?;
        Some(self.cursor.child(key, node))
    }

    /// Like `get`, but notes a problem if `key` is missing.
    pub(super) fn required(&mut self, key: &'static str) -> Option<Cursor<'a>> {
        let found = self.get(key);
        if found.is_none() {
            self.cursor
                .note(format!("the key `{key}` is missing"), "add it");
        }
        found
    }

    /// The value of `key` as `read` reads it; `Some(None)` without that key.
    #[expect(
        clippy::option_option,
        reason = "absent, and present but wrong, differ"
    )]
    pub(super) fn optional_with<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Cursor<'a>) -> Option<T>,
    ) -> Option<Option<T>> {
        match self.get(key) {
            Some(cursor) => read(&cursor).map(Some),
            None => Some(None),
        }
    }

    /// Notes a problem for every key that was not read.
    pub(super) fn finish(self) {
        for (key, node) in self.cursor.node.entries() {
            if !self.known_keys.contains(&key.as_str()) {
                self.cursor
                    .child(key, node)
                    .note("unknown key", suggestion(key, &self.known_keys));
            }
        }
    }
}
