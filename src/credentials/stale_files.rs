//! Removes files that killed processes have left beside the credentials file.

use std::{
    ffi::OsStr,
    fs::{self, Metadata},
    os::unix::fs::MetadataExt,
    path::Path,
    time::Duration,
};

/// Removes the regular files in `directory` whose names `is_ours` accepts and that no live process
/// can still be using. Their age is measured by the file system's clock, which has just set the
/// time of `ours`; files of another account than that file's are kept.
pub(super) fn remove(directory: &Path, ours: &Metadata, is_ours: impl Fn(&OsStr) -> bool) {
    let Ok(now) = ours.modified() else { return };
    let is_stale = |path: &Path| {
        fs::symlink_metadata(path).is_ok_and(|it| {
            let age = it
                .modified()
                .ok()
                .and_then(|at| now.duration_since(at).ok());
            it.is_file() && it.uid() == ours.uid() && age.is_some_and(|age| age > STALE_AGE)
        })
    };
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if is_ours(&entry.file_name()) && is_stale(&path) {
            // Another process may have removed it first.
            let _already_gone = fs::remove_file(&path);
        }
    }
}

/// No write takes that long: a file of this age was left by a killed process.
const STALE_AGE: Duration = Duration::from_secs(60);
