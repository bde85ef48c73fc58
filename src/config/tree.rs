//! TOML as a tree of values with their provenance, and the merging of such trees.

use std::fmt;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{error::Problem, provenance::Provenance};

/// A value and its provenance.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) provenance: Provenance,
    pub(super) value: Value,
}

/// A value; the entries of a table keep the order of the file.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Array(Vec<Node>),
    Scalar(toml::Value),
    Table(Vec<(String, Node)>),
}

/// Parses TOML; `provenance` returns the provenance of a line, counted from 1.
pub(super) fn parse(text: &str, provenance: impl Fn(usize) -> Provenance) -> Result<Node, Problem> {
    let at = |offset: usize| {
        let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
        provenance(1 + before.iter().filter(|byte| **byte == b'\n').count())
    };
    let table = DeTable::parse(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        Problem::new(format!("not TOML: {}", error.message())).at(at(offset))
    })?;
    Ok(Node {
        provenance: at(0),
        value: convert_table(table.get_ref(), &at),
    })
}

fn convert_table(table: &DeTable<'_>, at: &impl Fn(usize) -> Provenance) -> Value {
    let mut entries: Vec<(&Spanned<_>, _)> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    Value::Table(
        entries
            .into_iter()
            .map(|(key, value)| {
                let node = Node {
                    provenance: at(key.span().start),
                    value: convert(value, at),
                };
                (key.get_ref().to_string(), node)
            })
            .collect(),
    )
}

fn convert(value: &Spanned<DeValue<'_>>, at: &impl Fn(usize) -> Provenance) -> Value {
    let scalar = match value.get_ref() {
        DeValue::Table(table) => return convert_table(table, at),
        DeValue::Array(items) => {
            let node = |item: &Spanned<DeValue<'_>>| Node {
                provenance: at(item.span().start),
                value: convert(item, at),
            };
            return Value::Array(items.iter().map(node).collect());
        }
        DeValue::String(text) => toml::Value::String(text.to_string()),
        DeValue::Boolean(value) => toml::Value::Boolean(*value),
        DeValue::Datetime(value) => toml::Value::Datetime(*value),
        // A number that is too large stays text, which the reader refuses.
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or_else(
                |_| toml::Value::String(number.to_string()),
                toml::Value::Integer,
            ),
        DeValue::Float(number) => number.as_str().parse().map_or_else(
            |_| toml::Value::String(number.to_string()),
            toml::Value::Float,
        ),
    };
    Value::Scalar(scalar)
}

// === impl Node ===

impl Node {
    pub(super) fn table(provenance: Provenance) -> Self {
        Self {
            provenance,
            value: Value::Table(Vec::new()),
        }
    }

    pub(super) fn text(provenance: Provenance, text: &str) -> Self {
        Self {
            provenance,
            value: Value::Scalar(toml::Value::String(text.into())),
        }
    }

    /// Merges `overlay` into this: its scalars and arrays win, tables are merged key by key.
    pub(super) fn merge(&mut self, overlay: Self) {
        self.provenance = overlay.provenance;
        match (&mut self.value, overlay.value) {
            (Value::Table(base), Value::Table(entries)) => {
                for (key, node) in entries {
                    match base.iter_mut().find(|(name, _)| *name == key) {
                        Some((_, old)) if !is_whole(&key, old, &node) => old.merge(node),
                        Some((_, old)) => *old = node,
                        None => base.push((key, node)),
                    }
                }
            }
            (value, overlay) => *value = overlay,
        }
    }

    /// Sets `key` to `node`.
    pub(super) fn set(&mut self, key: &str, node: Self) {
        if let Some(old) = self.get_mut(key) {
            *old = node;
        } else if let Value::Table(entries) = &mut self.value {
            entries.push((key.into(), node));
        }
    }

    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut Self> {
        match &mut self.value {
            Value::Table(entries) => entries
                .iter_mut()
                .find_map(|(name, node)| (name == key).then_some(node)),
            _ => None,
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        self.entries()
            .iter()
            .find_map(|(name, node)| (name == key).then_some(node))
    }

    pub(super) fn entries(&self) -> &[(String, Self)] {
        match &self.value {
            Value::Table(entries) => entries,
            _ => &[],
        }
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(value) => value.as_str(),
            _ => None,
        }
    }

    /// The value's type, for messages that must not show the value.
    pub(super) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Array(_) => "a list",
            Value::Table(_) => "a table",
            Value::Scalar(toml::Value::Boolean(_)) => "true or false",
            Value::Scalar(toml::Value::Integer(_) | toml::Value::Float(_)) => "a number",
            Value::Scalar(toml::Value::Datetime(_)) => "a date",
            Value::Scalar(_) => "a string",
        }
    }
}

/// Tables that are replaced as a whole: a secret reference, and credentials of another kind.
fn is_whole(key: &str, base: &Node, overlay: &Node) -> bool {
    let kind = |node: &Node| node.get("kind").and_then(Node::as_str).map(str::to_owned);
    key == "key" || kind(overlay).is_some_and(|new| kind(base) != Some(new))
}

/// TOML on one line.
impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&inline(self))
    }
}

fn inline(node: &Node) -> String {
    match &node.value {
        Value::Array(nodes) => {
            let items: Vec<_> = nodes.iter().map(inline).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Scalar(value) => value.to_string(),
        Value::Table(entries) if entries.is_empty() => "{}".into(),
        Value::Table(entries) => {
            let entries: Vec<_> = entries
                .iter()
                .map(|(key, node)| format!("{} = {}", inline_key(key), inline(node)))
                .collect();
            format!("{{ {} }}", entries.join(", "))
        }
    }
}

/// The key, quoted where TOML requires it.
pub(super) fn inline_key(key: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if !key.is_empty() && key.bytes().all(bare) {
        key.into()
    } else {
        toml::Value::String(key.into()).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(text: &str) -> Node {
        parse(text, |_| Provenance::BuiltIn).unwrap()
    }

    #[test]
    fn merges_tables_by_key_and_replaces_lists() {
        let mut base = tree("a = 1\nlist = [1, 2]\n[t]\nx = 1\ny = 2");
        base.merge(tree("list = [3]\n[t]\ny = 5\nz = 6"));
        assert_eq!(
            base.to_string(),
            "{ a = 1, list = [3], t = { x = 1, y = 5, z = 6 } }"
        );
    }

    #[test]
    fn replaces_a_secret_reference_as_a_whole() {
        let mut base = tree("key = { env = \"A\" }");
        base.merge(tree("key = { file = \"b\" }"));
        assert_eq!(base.to_string(), "{ key = { file = \"b\" } }");
    }

    #[test]
    fn replaces_credentials_of_another_kind_and_merges_those_of_the_same() {
        let mut base = tree("[c]\nkind = \"oauth\"\nscope = \"s\"");
        base.merge(tree("[c]\nkind = \"oauth\"\nfile = \"f\""));
        assert_eq!(
            base.to_string(),
            "{ c = { kind = \"oauth\", scope = \"s\", file = \"f\" } }"
        );
        base.merge(tree("[c]\nkind = \"none\""));
        assert_eq!(base.to_string(), "{ c = { kind = \"none\" } }");
    }

    #[test]
    fn knows_the_line_of_every_value() {
        let line = |line| Provenance::File {
            path: std::path::Path::new("f").into(),
            line,
        };
        let root = parse("a = 1\n\n[t]\nlist = [\n  1,\n  2,\n]\n", line).unwrap();
        let list = root.get("t").and_then(|t| t.get("list")).unwrap();
        let Value::Array(items) = &list.value else {
            panic!("not a list")
        };
        let lines: Vec<_> = [root.get("a").unwrap(), list, &items[1]]
            .iter()
            .map(|node| node.provenance.line())
            .collect();
        assert_eq!(lines, [Some(1), Some(4), Some(6)]);
    }
}
