//! The state file: used by one process at a time, replaced atomically.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use tracing::{info, warn};

use super::{
    FILE_MODE, LedgerSnapshot, PeekError, Store,
    lock::{AlreadyLocked, StateFileError, StateFileLock},
};

/// The state file of one upstream, locked until dropped.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    temporary: PathBuf,
    failing: bool,
    _lock: StateFileLock,
}

/// Only the account that runs pacegate may open the directory.
const DIRECTORY_MODE: u32 = 0o700;

/// Reads the file of `upstream` without its lock. Writes are atomic, so it is never half-written.
pub(super) fn peek(directory: &Path, upstream: &str) -> Result<Option<LedgerSnapshot>, PeekError> {
    match fs::read(path_in(directory, upstream)) {
        Ok(text) => LedgerSnapshot::parse(&text)
            .map(Some)
            .map_err(|error| PeekError::Unreadable(error.to_string())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn path_in(directory: &Path, upstream: &str) -> PathBuf {
    directory.join(format!("quotas-{upstream}.json"))
}

// === impl StateFile ===

impl StateFile {
    /// Locks and reads the file of `upstream`. If it cannot be used, logs a warning and returns
    /// `None` in its place.
    pub(super) fn open(
        directory: &Path,
        upstream: &str,
    ) -> Result<(Option<Self>, Option<LedgerSnapshot>), AlreadyLocked> {
        let path = path_in(directory, upstream);
        match Self::prepare(&path, upstream) {
            Ok((file, snapshot)) => Ok((Some(file), snapshot)),
            Err(StateFileError::AlreadyLocked(held)) => Err(held),
            Err(StateFileError::Io(error)) => {
                warn!(
                    upstream,
                    path = %path.display(),
                    %error,
                    "Quotas are counted in memory only because the state file cannot be used: what \
                     was counted before is not known, and a restart forgets the rest"
                );
                Ok((None, None))
            }
        }
    }

    fn try_write(&self, snapshot: &LedgerSnapshot) -> io::Result<()> {
        let text = serde_json::to_vec(snapshot)?;
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(FILE_MODE)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&self.temporary)?;
        file.write_all(&text)?;
        file.sync_data()?;
        // The directory is not synced: that would double the time, and a killed process loses
        // nothing without it. A power cut may undo the last rename; each sync commits the earlier
        // ones on ext4 and xfs. The first write skips it as well, because it replaces nothing.
        fs::rename(&self.temporary, &self.path)
    }

    fn prepare(
        path: &Path,
        upstream: &str,
    ) -> Result<(Self, Option<LedgerSnapshot>), StateFileError> {
        if let Some(directory) = path.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(DIRECTORY_MODE)
                .create(directory)?;
        }
        let file = Self {
            path: path.to_owned(),
            temporary: path.with_extension("json.tmp"),
            failing: false,
            _lock: StateFileLock::take(path.with_extension("lock"), upstream)?,
        };
        let snapshot = match fs::read(path) {
            Ok(text) => match LedgerSnapshot::parse(&text) {
                Ok(snapshot) => Some(snapshot),
                Err(error) => {
                    let kept = path.with_extension("json.bad");
                    fs::rename(path, &kept)?;
                    warn!(
                        upstream,
                        %error,
                        kept = %kept.display(),
                        "The state file was not readable and is kept aside: quotas are counted from \
                         zero"
                    );
                    None
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        Ok((file, snapshot))
    }
}

impl Store for StateFile {
    /// Logs a failure once; the next call tries again.
    fn save(&mut self, snapshot: &LedgerSnapshot) {
        match (self.try_write(snapshot), self.failing) {
            (Ok(()), false) => {}
            (Ok(()), true) => {
                self.failing = false;
                info!(path = %self.path.display(), "Quota counts can be written again");
            }
            (Err(error), false) => {
                self.failing = true;
                warn!(
                    path = %self.path.display(),
                    %error,
                    "Quota counts cannot be written: a restart would forget what is spent from now \
                     on"
                );
            }
            (Err(_), true) => {}
        }
    }
}
