//! Plays the fuzz targets' seeds, and what once broke something, to the targets.
//!
//! `tests/run fuzz` looks for more. What it finds goes into `fuzz/corpus/TARGET/` under a name that
//! says what it is.

use std::{collections::BTreeSet, fs, path::Path};

#[expect(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a library of its own where it is fuzzed, and a target's panic is a finding"
)]
#[path = "../../fuzz/src/lib.rs"]
mod targets;

#[test]
fn no_known_input_breaks_a_promise() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, target) in targets::TARGETS {
        let inputs: Vec<_> = fs::read_dir(corpus.join(name)).unwrap().collect();
        assert!(inputs.len() > 3, "{name} has no seeds");
        for input in inputs {
            let input = input.unwrap().path();
            println!("{}", input.display());
            target(&fs::read(input).unwrap());
        }
    }
}

#[test]
fn every_target_is_built_fuzzed_and_has_seeds() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let names = |folder: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(fuzz.join(folder)).unwrap();
        let stem = |entry: fs::DirEntry| entry.path().file_stem().map(|it| it.to_owned());
        let stems = entries.filter_map(|entry| stem(entry.unwrap()));
        stems.map(|stem| stem.into_string().unwrap()).collect()
    };
    let targets: BTreeSet<_> = targets::TARGETS.map(|(name, _)| name.to_owned()).into();
    assert_eq!(names("fuzz_targets"), targets);
    assert_eq!(names("corpus"), targets);
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for name in &targets {
        assert!(
            manifest.contains(&format!("[[bin]]\nname = \"{name}\"\n")),
            "{name}"
        );
    }
}
