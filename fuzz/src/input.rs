//! The format of inputs, so that seeds can be read and written by hand.

use std::{fs, path::PathBuf};

use http::{HeaderMap, HeaderName, HeaderValue};
use pacegate::config::{self, Config, ConfigSource};
use tempfile::TempDir;

/// Lines of `name: value` up to an empty line, then a body. Lines that are no header are ignored.
pub fn message(input: &[u8]) -> (HeaderMap, &[u8]) {
    let end = input.windows(2).position(|pair| pair == b"\n\n");
    let (head, body) = match end {
        Some(end) => (&input[..end], &input[end + 2..]),
        None => (input, &[][..]),
    };
    let mut headers = HeaderMap::new();
    for line in head.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            headers.append(name, value);
        }
    }
    (headers, body)
}

/// The first line, and the rest.
pub fn first_line(input: &[u8]) -> (&[u8], &[u8]) {
    match input.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&input[..end], &input[end + 1..]),
        None => (input, &[]),
    }
}

/// A directory in memory if possible: targets write a file for every input.
pub fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}

/// The configuration in `text`.
pub fn configured(text: &str) -> Config {
    let folder = folder();
    let file: PathBuf = folder.path().join("pacegate.toml");
    fs::write(&file, text).unwrap();
    let env = |_: &str| None;
    let mut source = ConfigSource::new(&env);
    source.config = Some(file);
    config::load(&source).unwrap().config
}
