//! A home that lasts as long as the demo.

use std::{
    env,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use uuid::Uuid;

/// A directory that nobody else may enter; removed with all that is in it when dropped.
#[derive(Debug)]
pub struct Home(PathBuf);

impl Home {
    /// Makes one among the machine's temporary files.
    ///
    /// # Errors
    ///
    /// If nothing can be written there.
    pub fn new() -> io::Result<Self> {
        let path = env::temp_dir().join(format!("pacegate-demo-{}", Uuid::new_v4()));
        // Fails if something stands there already, a link included.
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // What is left is a token that nobody accepts any more.
        let _best_effort = fs::remove_dir_all(&self.0);
    }
}
