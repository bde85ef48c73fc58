//! Build script: lists every file of `config/` as a constant, so that the data is in the binary
//! and the code names none of it.

use std::{
    env, fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

fn main() -> io::Result<()> {
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
        "cargo::rerun-if-changed=config\ncargo::rerun-if-changed=src/config/embed.rs"
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
