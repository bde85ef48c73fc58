//! The dependency rules: `layers <- src <- tests`, and inside `src` every arrow points one way.

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

/// The directories and files of `src`, from the top: each may use those below it.
const ORDER: [&str; 25] = [
    "main",
    "cli",
    "commands",
    "bench",
    "demo",
    "edge",
    "routes",
    "upstreams",
    "credentials",
    "oauth",
    "client",
    "dialect",
    "telemetry",
    "quotas",
    "api",
    "simulator",
    "server",
    "process",
    "config",
    "body",
    "calendar",
    "idle_timer",
    "wall_clock",
    "lib",
    "layers",
];

#[test]
fn a_directory_of_src_uses_only_those_below_it() {
    let arrows = arrows();
    let place = |name: &str| {
        let found = ORDER.iter().position(|known| *known == name);
        found.unwrap_or_else(|| panic!("{name} has no place in ORDER"))
    };
    let up: Vec<_> = arrows
        .iter()
        .filter(|arrow| place(&arrow.from) >= place(&arrow.to))
        .collect();
    assert!(up.is_empty(), "{up:#?}");
    assert!(
        arrows
            .iter()
            .any(|arrow| arrow.from == "edge" && arrow.to == "routes")
    );
}

#[test]
fn the_simulator_the_config_and_the_server_know_no_other_directory() {
    let mut arrows = arrows();
    let allowed = |arrow: &Arrow| match arrow.from.as_str() {
        "simulator" => false,
        "config" => arrow.to == "layers",
        "server" => ["idle_timer", "layers"].contains(&arrow.to.as_str()),
        _ => true,
    };
    arrows.retain(|arrow| !allowed(arrow));
    assert!(arrows.is_empty(), "{arrows:#?}");
}

/// A directory or file of `src` that names another one.
#[derive(Debug)]
struct Arrow {
    from: String,
    to: String,
    #[expect(dead_code, reason = "shown when a test fails")]
    file: PathBuf,
}

/// All arrows inside `src`, those of tests aside.
fn arrows() -> Vec<Arrow> {
    let src = Path::new(ROOT).join("src");
    let mut arrows = Vec::new();
    for file in files(&src) {
        let file = file.strip_prefix(&src).unwrap().to_owned();
        if file.ends_with("tests.rs") || file.components().any(|part| part.as_os_str() == "tests") {
            continue;
        }
        let first = file.components().next().unwrap().as_os_str();
        let from = first.to_str().unwrap().trim_end_matches(".rs");
        let text = fs::read_to_string(src.join(&file)).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        let code = code
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        let code = code.collect::<Vec<_>>().join("\n");
        if code.contains("pacegate_layers") {
            let (from, to) = (from.to_owned(), "layers".to_owned());
            arrows.push(Arrow {
                from,
                to,
                file: file.clone(),
            });
        }
        for path in code.split("crate::").skip(1) {
            for to in first_names(path).into_iter().filter(|to| to != from) {
                let (from, file) = (from.to_owned(), file.clone());
                arrows.push(Arrow { from, to, file });
            }
        }
    }
    arrows
}

/// The first name of a path, or of each path in a list: `a, b` in `{a::{x, y}, b::z};`.
fn first_names(path: &str) -> Vec<String> {
    let name = |path: &str| {
        let end = |c: char| !c.is_alphanumeric() && c != '_';
        path.trim_start().split(end).next().unwrap().to_owned()
    };
    let Some(list) = path.strip_prefix('{') else {
        return vec![name(path)];
    };
    let mut names = vec![name(list)];
    let mut depth = 1;
    for (index, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => names.push(name(&list[index + 1..])),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names.retain(|name| !name.is_empty());
    names
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
