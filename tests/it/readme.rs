//! The README says what is so: its samples load, its tables are complete.

// Always so here; it tells clippy that helpers of tests may unwrap as tests do.
#![cfg(test)]

use std::{collections::BTreeSet, fs, path::Path, process::Command};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Stands where a default is too long for a table.
const NOT_SHOWN: &str = "the preset's";

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(name)).unwrap()
}

/// The blocks of the README in a language, without the indentation of a list.
fn blocks(language: &str) -> Vec<String> {
    let readme = read("README.md");
    let (mut blocks, mut block): (Vec<_>, Option<String>) = (Vec::new(), None);
    for line in readme.lines() {
        let fence = line.trim_start().strip_prefix("```");
        match (&mut block, fence) {
            (None, Some(kind)) if kind == language => block = Some(String::new()),
            (Some(_), Some(_)) => blocks.extend(block.take()),
            (Some(text), None) => *text += &format!("{line}\n"),
            (None, _) => {}
        }
    }
    assert!(!blocks.is_empty(), "{language}");
    blocks
}

/// The rows of all tables under a heading, as cells.
fn rows(heading: &str) -> Vec<Vec<String>> {
    let readme = read("README.md");
    let section = readme.split("\n## ").find(|text| text.starts_with(heading));
    section
        .unwrap()
        .lines()
        .filter(|line| line.starts_with("| "))
        .map(|line| {
            let cells = line.trim_matches('|').split(" | ");
            cells.map(|cell| cell.trim().to_owned()).collect()
        })
        .collect()
}

fn code(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?.strip_suffix('`')
}

#[test]
fn every_toml_block_is_a_config_that_can_be_used() {
    for block in blocks("toml") {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("pacegate.toml");
        fs::write(&file, &block).unwrap();
        let secret = "9f1c0b7ae35d48264ac1e7f09b6d2358";
        let output = Command::new(env!("CARGO_BIN_EXE_pacegate"))
            .args(["check", "--config"])
            .arg(&file)
            .env_clear()
            .env("HOME", home.path())
            .envs(["DASHSCOPE_API_KEY", "PACEGATE_CLIENT_KEY"].map(|name| (name, secret)))
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{block}{stderr}");
    }
}

#[test]
fn the_opencode_block_is_the_sample() {
    assert_eq!(blocks("jsonc"), [read("config/opencode.jsonc")]);
}

#[test]
fn every_key_of_the_annotated_default_is_there_in_its_order_with_its_default() {
    let mut table = String::new();
    let mut settings = Vec::new();
    for line in read("config/pacegate.toml").lines() {
        let line = line.strip_prefix('#').unwrap_or(line);
        if line == "[[upstream]]" {
            table.clear();
        } else if let Some(name) = line.strip_prefix('[') {
            table = name.trim_start_matches("upstream.").replace(']', ".");
        } else if let Some((key, default)) = line.split_once(" = ")
            && !key.contains(' ')
        {
            settings.push((format!("{table}{key}"), default.to_owned()));
        }
    }
    assert!(settings.len() > 30, "{settings:?}");

    let rows = rows("Config");
    let names = |key: &str| settings.iter().any(|(known, _)| known == key);
    let mut listed = Vec::new();
    for row in &rows {
        let Some(key) = code(&row[0]).filter(|key| names(key)) else {
            continue;
        };
        let index = listed.len();
        let default = code(&row[1]).map(str::to_owned);
        if row[1] != NOT_SHOWN {
            assert_eq!(default.as_ref(), Some(&settings[index].1), "{key}");
        }
        listed.push(key);
    }
    let keys: Vec<_> = settings.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(listed, keys);
}

#[test]
fn the_error_table_has_every_code_that_the_gateway_can_make_and_no_other() {
    let rows = rows("Errors");
    let listed: BTreeSet<_> = rows.iter().filter_map(|row| code(&row[1])).collect();
    let listed: BTreeSet<_> = listed
        .into_iter()
        .filter(|code| is_word(code))
        .map(str::to_owned)
        .collect();
    assert_eq!(listed, codes());
}

#[test]
fn the_performance_tables_have_the_lines_that_are_measured() {
    let source = read("benches/peers/src/bin/compare/metric.rs");
    let metrics = source.split("METRICS: [Metric").nth(1).unwrap();
    let metrics = metrics.split("];").next().unwrap();
    let words: Vec<_> = metrics.split('"').skip(1).step_by(2).collect();
    let lines = words.chunks(3).map(|words| match words {
        [_key, label, ""] => (*label).to_owned(),
        [_key, label, unit] => format!("{label}, {unit}"),
        _ => panic!("{words:?}"),
    });
    let lines: Vec<_> = lines.collect();
    let rows = rows("Performance");
    // A table's head has nothing in its first cell; a rule follows.
    let tables = rows.split(|row| row[0].is_empty()).skip(1);
    let mut shown = 0;
    for table in tables {
        let table = table.iter().map(|row| row[0].as_str());
        let table: Vec<_> = table.filter(|first| *first != "---").collect();
        // A line that is measured since shows up when the figures are renewed.
        let known = lines.iter().filter(|line| table.contains(&line.as_str()));
        let known: Vec<_> = known.map(String::as_str).collect();
        assert_eq!(table, known);
        shown += table.len();
    }
    assert!(shown > 0);
}

/// The codes in the sources: what `fn code` returns, and every word in quotes of the table from errors
/// to responses and of the internal error.
fn codes() -> BTreeSet<String> {
    let mut codes = BTreeSet::new();
    for (file, function, end) in [
        ("guard/rejected.rs", "fn code(", "\n    }\n"),
        ("request_body.rs", "fn code(", "\n    }\n"),
        ("rescue_table.rs", "", "#[cfg(test)]"),
        ("../api/error_response.rs", "fn internal(", "\n    }\n"),
    ] {
        let source = read(&format!("src/edge/{file}"));
        let start = source.find(function).unwrap();
        codes.extend(words(source[start..].split(end).next().unwrap()));
    }
    codes
}

/// Everything in quotes that is a word, comments aside.
fn words(source: &str) -> Vec<String> {
    let code = source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    code.collect::<Vec<_>>()
        .join("\n")
        .split('"')
        .skip(1)
        .step_by(2)
        .filter(|text| is_word(text))
        .map(str::to_owned)
        .collect()
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'_'))
}
