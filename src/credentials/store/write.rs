//! Replacing a file so that no reader ever sees a part of it.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
    time::Duration,
};

use tracing::warn;
use uuid::Uuid;

use super::Stamp;
use crate::credentials::leftovers::sweep;

/// Why a file was not written; it still holds what it held.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The system refused: no space, no permission, read-only.
    #[error("{} cannot be written: {reason}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// A symbolic link, a directory, a pipe, a device stands in its place.
    #[error("{} is not a regular file and is not replaced", .0.display())]
    NotRegular(PathBuf),
}

/// Puts `content` in the place of what `path` holds.
pub(super) fn replace(path: &Path, content: &[u8]) -> Result<Stamp, WriteError> {
    let failed = |reason| WriteError::Io {
        path: path.to_owned(),
        reason,
    };
    let before = match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.is_file() => return Err(WriteError::NotRegular(path.to_owned())),
        Ok(metadata) => Some(metadata),
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
    match temporary.become_file(path, content, before.as_ref()) {
        // A bind mount of the file itself: nothing can be renamed onto it.
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            warn!(
                path = %path.display(),
                "Writing the credentials in place because the file is a mount point; mount its \
                 directory instead"
            );
            in_place(path, content, before.as_ref()).map_err(failed)
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

fn in_place(path: &Path, content: &[u8], before: Option<&Metadata>) -> io::Result<Stamp> {
    // Truncated first: a reader that comes between sees no JSON and tries again. Overwriting
    // would show it the new access token together with the old refresh token.
    let mut file = OpenOptions::new()
        .write(true)
        .truncate(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    // Fails where the file is somebody else's, which is no reason to lose a token.
    let _best_effort = file.set_permissions(Permissions::from_mode(0o600));
    fill(&mut file, content, before)
}

fn fill(file: &mut File, content: &[u8], before: Option<&Metadata>) -> io::Result<Stamp> {
    file.write_all(content)?;
    if let Some(before) = before {
        let before = before.modified()?;
        if file.metadata()?.modified()? <= before {
            file.set_modified(before + TICK)?;
        }
    }
    file.sync_all()?;
    Ok(Stamp::of(&file.metadata()?))
}

/// Others reload only on a newer time, which they compare in milliseconds.
const TICK: Duration = Duration::from_millis(2);

/// A file that is gone at the end unless it has become the real one.
struct Temporary(PathBuf);

const PREFIX: &str = ".pacegate-";
const SUFFIX: &str = ".tmp";

/// Leaves the file to whom it belonged: a gateway that runs as root beside somebody's own program
/// would shut that program out. Not if the directory is a third one's: then the file may have been
/// planted there to get at the token.
fn keep_owner(file: &File, path: &Path, directory: &Path, before: &Metadata) {
    let (uid, gid) = (before.uid(), before.gid());
    let is_at_home = fs::metadata(directory).is_ok_and(|it| it.uid() == uid);
    if !is_at_home || fchown(file, Some(uid), Some(gid)).is_err() {
        warn!(
            path = %path.display(),
            owner = uid,
            "The credentials file belonged to another account, which can no longer open it"
        );
    }
}

// === impl Temporary ===

impl Temporary {
    fn in_directory(directory: &Path) -> Self {
        Self(directory.join(format!("{PREFIX}{}{SUFFIX}", Uuid::new_v4())))
    }

    /// Whether a file is called as ours are.
    fn is_name(name: &OsStr) -> bool {
        name.to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX))
            .is_some_and(|id| Uuid::try_parse(id).is_ok())
    }

    fn become_file(
        &self,
        path: &Path,
        content: &[u8],
        before: Option<&Metadata>,
    ) -> io::Result<Stamp> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&self.0)?;
        let ours = file.metadata()?;
        let directory = self.0.parent().unwrap_or(path);
        // Before the content: on a full disk, what is swept may be the space that is missing.
        sweep(directory, &ours, Self::is_name);
        let stamp = fill(&mut file, content, before)?;
        if let Some(before) = before.filter(|it| it.uid() != ours.uid()) {
            keep_owner(&file, path, directory, before);
        }
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
    fn knows_its_own_temporary_files_by_name() {
        let temporary = Temporary::in_directory(Path::new(""));
        assert!(Temporary::is_name(temporary.0.as_os_str()));
        for other in [".pacegate-.tmp", ".pacegate-1.tmp", "oauth_creds.json"] {
            assert!(!Temporary::is_name(OsStr::new(other)), "{other}");
        }
    }

    #[test]
    fn writing_in_place_keeps_the_inode_and_moves_the_time_forward() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "something much longer").unwrap();
        let before = fs::metadata(&path).unwrap();
        let after = in_place(&path, b"short", Some(&before)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"short");
        assert_eq!(after.inode, before.ino());
        assert!(after.modified() > before.modified().unwrap());
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
