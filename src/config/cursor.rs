//! Reading a tree: each value is turned into its type, each mistake is noted, and reading goes on.
//!
//! Readers return `None` once a problem was noted, so that one mistake doesn't hide the next.

use std::{cell::RefCell, fmt::Display, num::NonZeroUsize, path::PathBuf, time::Duration};

use super::{
    error::{Problem, suggestion},
    expand,
    origin::Origin,
    platform::Platform,
    tree::{Node, Value},
    units,
};

/// What every reader needs to know.
pub(super) struct Scope<'a> {
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
    pub(super) platform: Platform,
    /// Whether secret references are followed.
    pub(super) secrets: Secrets,
    pub(super) problems: RefCell<Vec<Problem>>,
}

/// What is done with a secret reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Secrets {
    /// Only its form is checked, and the secret is empty.
    LeftAlone,
    /// It has to lead to a secret.
    Resolved,
}

/// One value, where it stands, and where problems go.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    pub(super) node: &'a Node,
    pub(super) scope: &'a Scope<'a>,
    /// The key, from the top of the file.
    key: String,
}

/// The entries of a table. [`finish`](Self::finish) refuses those that nobody asked for.
pub(super) struct Fields<'a> {
    cursor: Cursor<'a>,
    asked: Vec<&'static str>,
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

    pub(super) fn origin(&self) -> &'a Origin {
        &self.node.origin
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
            .note(problem.at(self.node.origin.clone()).key(&self.key));
    }

    /// The same where a value was to be returned.
    pub(super) fn refuse<T>(
        &self,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Option<T> {
        self.note(message, hint);
        None
    }

    /// Notes that this value, which may be shown, is not what was expected.
    pub(super) fn expected<T>(&self, what: &str, hint: impl Into<String>) -> Option<T> {
        let found = match &self.node.value {
            Value::Scalar(value) => value.to_string(),
            _ => self.node.kind().into(),
        };
        self.refuse(format!("expected {what}, found {found}"), hint)
    }

    /// The same for a value that may hold a secret, or is of another type.
    fn expected_kind<T>(&self, what: &str, hint: &str) -> Option<T> {
        let found = self.node.kind();
        self.refuse(format!("expected {what}, found {found}"), hint)
    }

    pub(super) fn fields(&self) -> Option<Fields<'a>> {
        match self.node.value {
            Value::Table(_) => Some(Fields {
                cursor: self.clone(),
                asked: Vec::new(),
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

    /// A list of things that `read` reads.
    pub(super) fn list<T>(&self, read: impl Fn(&Self) -> Option<T>) -> Option<Vec<T>> {
        // All of them are read before the first failure counts, to note every problem.
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

    /// A whole number in `range`.
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
        /// More than this of anything is a slip of the hand.
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

    /// The path `text` of this value: `~` and variables expanded, and relative to the file that it
    /// stands in.
    pub(super) fn path(&self, text: &str) -> Option<PathBuf> {
        match expand::path(text, self.scope.env) {
            Ok(path) => Some(self.origin().beside(&path)),
            Err(unset) => self.refuse(
                format!("{} is not set, and this path needs it", unset.name),
                "set it, or write an absolute path",
            ),
        }
    }
}

// === impl Fields ===

impl<'a> Fields<'a> {
    pub(super) fn optional(&mut self, key: &'static str) -> Option<Cursor<'a>> {
        self.asked.push(key);
        let node = self.cursor.node.get(key)?;
        Some(self.cursor.child(key, node))
    }

    /// Like `optional`; a table without `key` is a problem.
    pub(super) fn required(&mut self, key: &'static str) -> Option<Cursor<'a>> {
        let found = self.optional(key);
        if found.is_none() {
            self.cursor
                .note(format!("the key `{key}` is missing"), "add it");
        }
        found
    }

    /// What `read` makes of `key`; `Some(None)` without that key.
    #[expect(
        clippy::option_option,
        reason = "absent, and present but wrong, differ"
    )]
    pub(super) fn maybe<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Cursor<'a>) -> Option<T>,
    ) -> Option<Option<T>> {
        match self.optional(key) {
            Some(cursor) => read(&cursor).map(Some),
            None => Some(None),
        }
    }

    /// Refuses every key that nobody asked for.
    pub(super) fn finish(self) {
        for (key, node) in self.cursor.node.entries() {
            if !self.asked.contains(&key.as_str()) {
                self.cursor
                    .child(key, node)
                    .note("unknown key", suggestion(key, &self.asked));
            }
        }
    }
}
