//! Removing what killed processes have left beside the credentials file.

use std::{
    ffi::OsStr,
    fs::{self, Metadata},
    os::unix::fs::MetadataExt,
    path::Path,
    time::Duration,
};

/// Removes the regular files in `directory` whose names are `left_by_us` and that nobody can be at
/// work with any more. Ages are told by the file system's clock, which has just stamped `ours`; what
/// belongs to another account than that file stays.
pub(super) fn sweep(directory: &Path, ours: &Metadata, left_by_us: impl Fn(&OsStr) -> bool) {
    let Ok(now) = ours.modified() else { return };
    let is_left = |path: &Path| {
        fs::symlink_metadata(path).is_ok_and(|it| {
            let age = it
                .modified()
                .ok()
                .and_then(|at| now.duration_since(at).ok());
            it.is_file() && it.uid() == ours.uid() && age.is_some_and(|age| age > LEFT_BEHIND)
        })
    };
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if left_by_us(&entry.file_name()) && is_left(&path) {
            // Another process may sweep as well.
            let _already_gone = fs::remove_file(&path);
        }
    }
}

/// No write takes that long, so a file of this age has lost its writer.
const LEFT_BEHIND: Duration = Duration::from_secs(60);
