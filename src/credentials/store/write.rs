//! Replacing a file so that no reader ever sees a part of it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use tracing::warn;
use uuid::Uuid;

use super::Stamp;

/// Why a file was not written; it still holds what it held.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The system refused: no space, no permission, read-only.
    #[error("{} cannot be written: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A symbolic link, a directory, a pipe, a device stands in its place.
    #[error("{} is not a regular file and is not replaced", .0.display())]
    NotRegular(PathBuf),
}

/// Puts `content` in the place of what `path` holds.
pub(super) fn replace(path: &Path, content: &[u8]) -> Result<Stamp, WriteError> {
    let failed = |source| WriteError::Io {
        path: path.to_owned(),
        source,
    };
    let before = match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.is_file() => return Err(WriteError::NotRegular(path.to_owned())),
        Ok(metadata) => Some(metadata.modified().map_err(failed)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(error)),
    };
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(failed)?;

    let temporary = Temporary::in_directory(directory);
    match temporary.become_file(path, content, before) {
        // A bind mount of the file itself: nothing can be renamed onto it.
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            warn!(
                path = %path.display(),
                "Writing the credentials in place because the file is a mount point; mount its \
                 directory instead"
            );
            in_place(path, content, before).map_err(failed)
        }
        Err(error) => Err(failed(error)),
        Ok(stamp) => {
            // The rename has happened; a directory that cannot be synced only risks that a power
            // cut brings the old file back.
            if let Err(error) = File::open(directory).and_then(|it| it.sync_all()) {
                warn!(%error, path = %path.display(), "Could not sync the credentials' directory");
            }
            Ok(stamp)
        }
    }
}

fn in_place(path: &Path, content: &[u8], before: Option<SystemTime>) -> io::Result<Stamp> {
    // Truncated first: a reader that comes between sees no JSON and tries again. Overwriting
    // would show it the new access token together with the old refresh token.
    let mut file = OpenOptions::new()
        .write(true)
        .truncate(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    fill(&mut file, content, before)
}

fn fill(file: &mut File, content: &[u8], before: Option<SystemTime>) -> io::Result<Stamp> {
    file.write_all(content)?;
    if let Some(before) = before
        && file.metadata()?.modified()? <= before
    {
        file.set_modified(before + TICK)?;
    }
    file.sync_all()?;
    Ok(Stamp::of(&file.metadata()?))
}

/// Others reload only on a newer time, which they compare in milliseconds.
const TICK: Duration = Duration::from_millis(2);

/// A file that is gone at the end unless it has become the real one.
struct Temporary(PathBuf);

// === impl Temporary ===

impl Temporary {
    fn in_directory(directory: &Path) -> Self {
        Self(directory.join(format!(".pacegate-{}.tmp", Uuid::new_v4())))
    }

    fn become_file(
        &self,
        path: &Path,
        content: &[u8],
        before: Option<SystemTime>,
    ) -> io::Result<Stamp> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&self.0)?;
        let stamp = fill(&mut file, content, before)?;
        fs::rename(&self.0, path)?;
        Ok(stamp)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _gone_after_the_rename = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_in_place_keeps_the_inode_and_moves_the_time_forward() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "something much longer").unwrap();
        let before = Stamp::of(&fs::metadata(&path).unwrap());
        let after = in_place(&path, b"short", Some(before.modified())).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"short");
        assert_eq!(after.inode, before.inode);
        assert!(after.modified() > before.modified());
    }
}
