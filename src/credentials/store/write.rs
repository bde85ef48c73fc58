//! Replaces a file so that no reader ever sees a part of it.

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

use crate::credentials::{file_version::FileVersion, stale_files};

/// Why a file was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The system returned an error: no space, no permission, read-only.
    #[error("{} cannot be written: {reason}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        reason: io::Error,
    },
    /// A symbolic link, a directory, a pipe or a device is in its place.
    #[error("{} is not a regular file and is not replaced", .0.display())]
    NotRegular(PathBuf),
}

/// Replaces the content of `path`.
pub(super) fn replace(path: &Path, content: &[u8]) -> Result<FileVersion, WriteError> {
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

    let temporary = TemporaryFile::in_directory(directory);
    match temporary.persist(path, content, before.as_ref()) {
        // The file is a bind mount of its own: nothing can be renamed onto it.
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            warn!(
                path = %path.display(),
                "Writing the credentials in place because the file is a mount point; mount its \
                 directory instead"
            );
            write_in_place(path, content, before.as_ref()).map_err(failed)
        }
        Err(error) => Err(failed(error)),
        Ok(version) => {
            // The rename is done. If the directory cannot be synced, a power cut may bring the old
            // file back.
            if let Err(error) = File::open(directory).and_then(|it| it.sync_all()) {
                warn!(%error, path = %path.display(), "Could not sync the credentials' directory");
            }
            Ok(version)
        }
    }
}

fn write_in_place(
    path: &Path,
    content: &[u8],
    before: Option<&Metadata>,
) -> io::Result<FileVersion> {
    // Truncated first: a reader in between sees no JSON and tries again. Overwriting would show it
    // the new access token beside the old refresh token.
    let mut file = OpenOptions::new()
        .write(true)
        .truncate(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    // Fails if the file belongs to another account, which is no reason to lose a token.
    let _best_effort = file.set_permissions(Permissions::from_mode(0o600));
    write_content(&mut file, content, before)
}

fn write_content(
    file: &mut File,
    content: &[u8],
    before: Option<&Metadata>,
) -> io::Result<FileVersion> {
    file.write_all(content)?;
    if let Some(before) = before {
        let before = before.modified()?;
        if file.metadata()?.modified()? <= before {
            file.set_modified(before + MTIME_STEP)?;
        }
    }
    file.sync_all()?;
    Ok(FileVersion::of(&file.metadata()?))
}

/// Other programs reload the file only if its time is newer, compared in milliseconds.
const MTIME_STEP: Duration = Duration::from_millis(2);

/// A temporary file, removed on drop unless it was renamed.
struct TemporaryFile(PathBuf);

const PREFIX: &str = ".pacegate-";
const SUFFIX: &str = ".tmp";

/// Keeps the file's owner: a gateway that runs as root would otherwise lock the owner's program
/// out. Does not if the directory belongs to a third account, which may have planted the file to
/// get at the token.
fn preserve_owner(file: &File, path: &Path, directory: &Path, before: &Metadata) {
    let (uid, gid) = (before.uid(), before.gid());
    let owns_directory = fs::metadata(directory).is_ok_and(|it| it.uid() == uid);
    if !owns_directory || fchown(file, Some(uid), Some(gid)).is_err() {
        warn!(
            path = %path.display(),
            owner = uid,
            "The credentials file belonged to another account, which can no longer open it"
        );
    }
}

// === impl TemporaryFile ===

impl TemporaryFile {
    fn in_directory(directory: &Path) -> Self {
        Self(directory.join(format!("{PREFIX}{}{SUFFIX}", Uuid::new_v4())))
    }

    /// Whether `name` is that of one of our temporary files.
    fn is_name(name: &OsStr) -> bool {
        name.to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX))
            .is_some_and(|id| Uuid::try_parse(id).is_ok())
    }

    fn persist(
        &self,
        path: &Path,
        content: &[u8],
        before: Option<&Metadata>,
    ) -> io::Result<FileVersion> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&self.0)?;
        let ours = file.metadata()?;
        let directory = self.0.parent().unwrap_or(path);
        // Before the content is written: on a full disk, the files removed may make the space.
        stale_files::remove(directory, &ours, Self::is_name);
        let version = write_content(&mut file, content, before)?;
        if let Some(before) = before.filter(|it| it.uid() != ours.uid()) {
            preserve_owner(&file, path, directory, before);
        }
        fs::rename(&self.0, path)?;
        Ok(version)
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let _gone_after_the_rename = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_its_own_temporary_files_by_name() {
        let temporary = TemporaryFile::in_directory(Path::new(""));
        assert!(TemporaryFile::is_name(temporary.0.as_os_str()));
        for other in [".pacegate-.tmp", ".pacegate-1.tmp", "oauth_creds.json"] {
            assert!(!TemporaryFile::is_name(OsStr::new(other)), "{other}");
        }
    }

    #[test]
    fn writing_in_place_keeps_the_inode_and_moves_the_time_forward() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "something much longer").unwrap();
        let before = fs::metadata(&path).unwrap();
        let after = write_in_place(&path, b"short", Some(&before)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"short");
        assert_eq!(fs::metadata(&path).unwrap().ino(), before.ino());
        assert!(after.modified() > before.modified().unwrap());
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
