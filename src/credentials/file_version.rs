//! Noticing that a file has changed without reading it.
//!
//! Files are checked when a token is asked for, at most every five seconds; there is no watcher,
//! because change notices do not reach bind mounts.

use std::{
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

/// Modification time, inode and length of a regular file. A file whose content was replaced has
/// another version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileVersion {
    modified: SystemTime,
    inode: u64,
    len: u64,
}

/// Limits how often a file is checked.
#[derive(Debug, Default)]
pub(super) struct CheckTimer {
    checked_at: Option<Instant>,
}

/// The programs that share the credentials file check it no more often either.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(5);

// === impl FileVersion ===

impl FileVersion {
    /// The version of the regular file at `path`, or `None`. A symbolic link is not followed.
    pub(super) fn of_file(path: &Path) -> Option<Self> {
        Self::of_regular(fs::symlink_metadata(path))
    }

    /// The version of the regular file that `path` leads to, or `None`.
    pub(super) fn of_link_target(path: &Path) -> Option<Self> {
        Self::of_regular(fs::metadata(path))
    }

    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            modified: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
            inode: metadata.ino(),
            len: metadata.len(),
        }
    }

    /// When the file was last written.
    pub fn modified(&self) -> SystemTime {
        self.modified
    }

    fn of_regular(metadata: io::Result<Metadata>) -> Option<Self> {
        let metadata = metadata.ok().filter(Metadata::is_file)?;
        Some(Self::of(&metadata))
    }
}

// === impl CheckTimer ===

impl CheckTimer {
    /// Returns whether a check is due at `now`; if so, it counts as done.
    pub(super) fn begin_check(&mut self, now: Instant) -> bool {
        let due = self
            .checked_at
            .is_none_or(|before| now - before >= CHECK_INTERVAL);
        if due {
            self.checked_at = Some(now);
        }
        due
    }
}
