//! `SECURITY.md` names tests, and a test that is gone shows nothing.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{fs, path::Path};

/// The last part of each test's name in the table.
fn named(text: &str) -> Vec<&str> {
    let (_, table) = text.split_once("| threat | test |").unwrap();
    table
        .split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|code| Some(code.rsplit_once("::")?.1))
        .collect()
}

/// All the Rust in `folder`.
fn sources(folder: &Path, all: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|it| it == "rs") {
            *all += &fs::read_to_string(path).unwrap();
        }
    }
}

#[test]
fn every_test_that_the_threats_name_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let mut tests = String::new();
    sources(&root.join("tests"), &mut tests);
    let named = named(&text);
    assert!(named.len() > 40, "{named:?}");
    for name in named {
        assert!(tests.contains(&format!("fn {name}(")), "{name}");
    }
}
