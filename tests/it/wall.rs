//! Who may know whom: arrows run `layers <- src <- tests`, and inside `src` some rooms know no other.

// Always so here; it tells clippy that helpers of tests may unwrap as tests do.
#![cfg(test)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn layers_know_no_config_no_json_no_http_client_and_no_tls() {
    let tree = tree(&["--package", "pacegate-layers"], "{lib}");
    assert!(tree.starts_with("pacegate_layers\n"), "{tree}");

    let strangers = [
        "anyhow",
        "clap",
        "h2",
        "hyper",
        "openssl",
        "pacegate",
        "reqwest",
        "rustls",
        "serde",
        "toml",
        "tower_http",
    ];
    let known: Vec<_> = tree
        .lines()
        .skip(1)
        .filter(|name| {
            strangers
                .iter()
                .any(|stranger| name.strip_prefix(stranger).is_some_and(ends_or_branches))
        })
        .collect();
    assert_eq!(known, [""; 0], "layers/Cargo.toml leads to these");
}

#[test]
fn without_its_tools_the_program_leads_to_nothing_that_only_they_need() {
    let tree = tree(&["--no-default-features"], "{lib} {f}");
    assert!(tree.contains("\ntokio "), "{tree}");
    let only_theirs = ["indicatif ", "plotters ", "rcgen "];
    let known: Vec<_> = tree
        .lines()
        .filter(|line| {
            only_theirs.iter().any(|name| line.starts_with(name)) || line.contains("test-util")
        })
        .collect();
    assert_eq!(known, [""; 0], "Cargo.toml leads to these");
}

#[test]
fn the_simulator_knows_nothing_of_the_gateway() {
    assert_eq!(reaches("simulator"), [""; 0]);
}

#[test]
fn the_config_knows_nothing_of_those_who_read_it() {
    assert_eq!(reaches("config"), [""; 0]);
}

/// What cargo says the program, or a package, is built from, a line for each.
fn tree(package: &[&str], format: &str) -> String {
    let output = Command::new(env!("CARGO"))
        .arg("tree")
        .args(package)
        .args(["--edges", "normal", "--prefix", "none", "--format", format])
        .args(["--locked", "--offline"])
        .current_dir(ROOT)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Whether what follows a name makes it that very crate or one of its family.
fn ends_or_branches(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with('_')
}

/// The lines of a room in `src` that name another room or the layers.
fn reaches(room: &str) -> Vec<String> {
    let files = files(&Path::new(ROOT).join("src").join(room));
    assert!(!files.is_empty(), "{room} has moved");
    let mut lines = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let code = text.lines().enumerate();
        for (index, line) in code.filter(|(_, line)| !line.trim_start().starts_with("//")) {
            let elsewhere = line.split("crate::").skip(1).any(|path| {
                path.split(|c: char| !c.is_alphanumeric() && c != '_')
                    .next()
                    != Some(room)
            });
            if elsewhere || line.contains("pacegate_layers") {
                lines.push(format!("{}:{}: {line}", file.display(), index + 1));
            }
        }
    }
    lines
}

/// Every source file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| match path.is_dir() {
            true => files(&path),
            false => vec![path],
        })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}
