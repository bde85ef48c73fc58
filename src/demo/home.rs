//! A temporary home directory for the demo.

use std::{
    env,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use uuid::Uuid;

/// A directory of mode 0700; removed with its contents when dropped.
#[derive(Debug)]
pub struct Home(PathBuf);

impl Home {
    /// Makes the directory in the system's temporary directory.
    ///
    /// # Errors
    ///
    /// If the directory cannot be made.
    pub fn new() -> io::Result<Self> {
        let path = env::temp_dir().join(format!("pacegate-demo-{}", Uuid::new_v4()));
        // Fails if the path exists, even as a link.
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    /// Path of the directory.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // If this fails, a token stays that no server accepts any more.
        let _best_effort = fs::remove_dir_all(&self.0);
    }
}
