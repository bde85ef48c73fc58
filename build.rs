//! Build script: what is in the binary beside its code, and how it is linked.

use std::{
    env, fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

fn main() -> io::Result<()> {
    embed_config()?;
    pack_relocations()
}

/// Lists every file of `config/` as a constant, so that the data is in the binary and the code names
/// none of it.
fn embed_config() -> io::Result<()> {
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("config");
    let mut files = Vec::new();
    walk(&root, &mut files)?;
    // The order of a directory is the file system's; builds are to be equal.
    files.sort();

    let mut code = String::from("pub(super) const FILES: &[(&str, &str)] = &[\n");
    for file in &files {
        let name = file.strip_prefix(&root).unwrap_or(file);
        code.push_str(&format!("    ({name:?}, include_str!({file:?})),\n"));
    }
    code.push_str("];\n");
    fs::write(
        Path::new(&variable("OUT_DIR")?).join("config_files.rs"),
        code,
    )?;
    writeln!(
        io::stdout(),
        "cargo::rerun-if-changed=config\ncargo::rerun-if-changed=build.rs"
    )
}

/// 12,000 places in the binary hold an address that is known when it is loaded. Named one by one they
/// take 300 KB, of the file and of its memory; as a bitmap, 4 KB. glibc reads that since 2.36; a
/// linker that cannot write it says so and goes on.
fn pack_relocations() -> io::Result<()> {
    if variable("CARGO_CFG_TARGET_OS")? != "linux" || variable("CARGO_CFG_TARGET_ENV")? != "gnu" {
        return Ok(());
    }
    writeln!(
        io::stdout(),
        "cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs"
    )
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

fn variable(name: &str) -> io::Result<String> {
    env::var(name).map_err(io::Error::other)
}
