//! The lock that keeps a second process off a state file.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    process,
};

use super::FILE_MODE;

/// A lock on a state file, held until dropped. The system releases it when the process ends, even
/// if it is killed.
#[derive(Debug)]
pub(super) struct StateFileLock(File);

/// Another process uses the state file. Two processes would both spend the rest of a quota.
#[derive(Debug, thiserror::Error)]
#[error(
    "{} is locked: {holder} counts the quotas of upstream {upstream} there\n  hint: stop the other \
     one, or give each its own state-dir",
    lock.display()
)]
pub struct AlreadyLocked {
    upstream: String,
    lock: PathBuf,
    holder: String,
}

/// Why a state file cannot be opened.
pub(super) enum StateFileError {
    AlreadyLocked(AlreadyLocked),
    Io(io::Error),
}

// === impl StateFileLock ===

impl StateFileLock {
    /// Locks `path`, a file beside the state file: each write replaces the state file itself.
    pub(super) fn take(path: PathBuf, upstream: &str) -> Result<Self, StateFileError> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)?;
        match file.try_lock() {
            Ok(()) => {
                // Names the holder in a second process's error; the lock holds without it.
                let _unsaid = file
                    .set_len(0)
                    .and_then(|()| write!(file, "{}", process::id()));
                Ok(Self(file))
            }
            Err(TryLockError::Error(error)) => Err(error.into()),
            Err(TryLockError::WouldBlock) => {
                let mut id = String::new();
                let read = file.read_to_string(&mut id);
                let holder = match read {
                    Ok(_) if id.parse::<u32>().is_ok() => {
                        format!("another pacegate (process {id})")
                    }
                    _ => "another pacegate".into(),
                };
                Err(StateFileError::AlreadyLocked(AlreadyLocked {
                    upstream: upstream.into(),
                    lock: path,
                    holder,
                }))
            }
        }
    }
}

impl Drop for StateFileLock {
    fn drop(&mut self) {
        // Closing is not enough: a child process holds a copy of the descriptor between fork and
        // exec. If unlocking fails, the lock is free after that exec.
        let _best_effort = self.0.unlock();
    }
}

// === impl StateFileError ===

impl From<io::Error> for StateFileError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_free_once_dropped_also_while_a_child_still_has_its_descriptor() {
        let folder = tempfile::tempdir().unwrap();
        let take = || StateFileLock::take(folder.path().join("quotas-mine.lock"), "mine");
        let held = take().ok().unwrap();
        let childs = held.0.try_clone().unwrap();
        assert!(matches!(take(), Err(StateFileError::AlreadyLocked(_))));
        drop(held);
        assert!(take().is_ok());
        drop(childs);
    }
}
