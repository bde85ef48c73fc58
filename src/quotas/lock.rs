//! One process counts on a state file.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    process,
};

use super::FILE_MODE;

/// A lock, held until dropped. The system releases it with the process, however that ends.
#[derive(Debug)]
pub(super) struct Lock(File);

/// Two processes that count on one file would both spend what is left.
#[derive(Debug, thiserror::Error)]
#[error(
    "{} is locked: {holder} counts the quotas of upstream {upstream} there\n  hint: stop the other \
     one, or give each its own state-dir",
    lock.display()
)]
pub struct Held {
    upstream: String,
    lock: PathBuf,
    holder: String,
}

/// Why there is no state file to count on.
pub(super) enum Failed {
    Held(Held),
    Io(io::Error),
}

// === impl Lock ===

impl Lock {
    /// Takes `path`: a file beside the state file, because that one is replaced by each write.
    pub(super) fn take(path: PathBuf, upstream: &str) -> Result<Self, Failed> {
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
                // For whoever comes second; the lock holds without it.
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
                Err(Failed::Held(Held {
                    upstream: upstream.into(),
                    lock: path,
                    holder,
                }))
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a child that is just being started has the descriptor as well until
        // it runs its own program. If this fails, that is all that is waited for.
        let _best_effort = self.0.unlock();
    }
}

// === impl Failed ===

impl From<io::Error> for Failed {
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
        let take = || Lock::take(folder.path().join("quotas-mine.lock"), "mine");
        let held = take().ok().unwrap();
        let childs = held.0.try_clone().unwrap();
        assert!(matches!(take(), Err(Failed::Held(_))));
        drop(held);
        assert!(take().is_ok());
        drop(childs);
    }
}
