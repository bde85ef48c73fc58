//! The state file: one process at a time, and never half written.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use tracing::{info, warn};

use super::{
    FILE_MODE, PeekError, Record, Store,
    lock::{Failed, Held, Lock},
};

/// The file of one upstream, ours until dropped.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    temporary: PathBuf,
    failing: bool,
    _lock: Lock,
}

/// Only the account that pacegate runs under looks into it.
const DIRECTORY_MODE: u32 = 0o700;

/// What the file of `upstream` holds, whoever counts there; a replaced file is never half of one.
pub(super) fn peek(directory: &Path, upstream: &str) -> Result<Option<Record>, PeekError> {
    match fs::read(path_in(directory, upstream)) {
        Ok(text) => Record::parse(&text)
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
    /// Locks and reads the file of `upstream`. `None` in its place if it cannot be used; a warning
    /// has said so.
    pub(super) fn open(
        directory: &Path,
        upstream: &str,
    ) -> Result<(Option<Self>, Option<Record>), Held> {
        let path = path_in(directory, upstream);
        match Self::prepare(&path, upstream) {
            Ok((file, record)) => Ok((Some(file), record)),
            Err(Failed::Held(held)) => Err(held),
            Err(Failed::Io(error)) => {
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

    fn try_write(&self, record: &Record) -> io::Result<()> {
        let text = serde_json::to_vec(record)?;
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(FILE_MODE)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&self.temporary)?;
        file.write_all(&text)?;
        file.sync_data()?;
        // The directory is not synced: that takes as long again, and a killed process loses nothing
        // without it. A power cut may undo renames that were not committed: on ext4 and xfs the last
        // one, because each sync commits what came before it. Not the first time either: that file
        // has nothing to lose.
        fs::rename(&self.temporary, &self.path)
    }

    fn prepare(path: &Path, upstream: &str) -> Result<(Self, Option<Record>), Failed> {
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
            _lock: Lock::take(path.with_extension("lock"), upstream)?,
        };
        let record = match fs::read(path) {
            Ok(text) => match Record::parse(&text) {
                Ok(record) => Some(record),
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
        Ok((file, record))
    }
}

impl Store for StateFile {
    /// A failure is told once; the next call tries again.
    fn keep(&mut self, record: &Record) {
        match (self.try_write(record), self.failing) {
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
