//! Secret references: the secrets they lead to are read here and shown nowhere.

use std::{fs, path::PathBuf};

use http::HeaderValue;
use secrecy::SecretString;

use super::cursor::{Cursor, Secrets};

/// A secret and its reference, for messages.
pub(super) struct Secret {
    pub(super) value: SecretString,
    /// Why there is no secret, where none is required.
    pub(super) problem: Option<String>,
    pub(super) file: Option<PathBuf>,
    pub(super) reference: String,
}

const WRITE_A_REFERENCE: &str =
    "write { env = \"NAME\" } for an environment variable, or { file = \"PATH\" }";

/// Reads `{ env = "NAME" }` or `{ file = "PATH" }` and the secret that it leads to.
pub(super) fn read(cursor: &Cursor<'_>) -> Option<Secret> {
    if cursor.node.as_str().is_some() {
        return cursor.refuse(
            "expected a reference to a secret, found a literal string",
            WRITE_A_REFERENCE,
        );
    }
    let mut table = cursor.table()?;
    let (env, file) = (table.get("env"), table.get("file"));
    table.finish();

    let (reference, file, found) = match (env, file) {
        (Some(name), None) => {
            let name = name.str()?;
            let value = match (cursor.scope.env)(name) {
                Some(value) => Ok(value),
                None => Err("it is not set".to_owned()),
            };
            (format!("env {name}"), None, value)
        }
        (None, Some(path)) => {
            let path = path.file()?;
            let value = match fs::read_to_string(&path) {
                Ok(value) => Ok(without_line_end(value)),
                Err(error) => Err(error.to_string()),
            };
            (format!("file {}", path.display()), Some(path), value)
        }
        _ => return cursor.refuse("expected either env or file", WRITE_A_REFERENCE),
    };
    let (value, problem) = match (usable(found), cursor.scope.secrets) {
        (Ok(value), Secrets::Resolved) => (value, None),
        (Err(reason), Secrets::Resolved) => {
            return cursor.refuse(
                format!("no secret in {reference}: {reason}"),
                format!("put the secret into {reference}, or name another place"),
            );
        }
        (found, Secrets::Unresolved) => (SecretString::default(), found.err()),
    };
    Some(Secret {
        value,
        problem,
        file,
        reference,
    })
}

fn usable(found: Result<String, String>) -> Result<SecretString, String> {
    let value = found?;
    if value.trim().is_empty() {
        return Err("it is empty".into());
    }
    if HeaderValue::from_str(&value).is_err() {
        let reason = "it has characters, such as line breaks, that no HTTP header can carry";
        return Err(reason.into());
    }
    Ok(value.into())
}

/// Editors and `echo` end a file with a line break that is not part of the secret.
fn without_line_end(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trims_one_line_end() {
        for (text, trimmed) in [
            ("a", "a"),
            ("a\n", "a"),
            ("a\r\n", "a"),
            ("a\n\n", "a\n"),
            ("", ""),
        ] {
            assert_eq!(without_line_end(text.into()), trimmed);
        }
    }
}
