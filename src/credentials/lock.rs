//! The lock file that programs sharing a credentials file take before they refresh the token.
//!
//! The protocol belongs to those programs: the file is created with `O_EXCL`, holds a random id and
//! counts as abandoned by its age, and some programs delete it even if it is not theirs. So a
//! [`CredentialsLock`] makes a collision unlikely, never impossible: its holder still compares the
//! credentials file before writing, and finishes in under ten seconds, the age at which the most
//! impatient program steals the lock. The lock file's time is never updated to prolong it.

use std::{
    ffi::OsStr,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use tracing::debug;
use uuid::Uuid;

use super::stale_files;
use crate::wall_clock::WallClock;

/// A lock file that this process created. Dropping it removes the file if it still holds this
/// lock's id.
#[derive(Debug)]
#[must_use = "dropping the lock releases it"]
pub struct CredentialsLock {
    path: PathBuf,
    id: String,
}

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another program held it during every attempt.
    #[error("{} is held by another program", .0.display())]
    Busy(PathBuf),
    /// The lock file cannot be created.
    #[error("{} cannot be made: {reason}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// The system's error.
        reason: io::Error,
    },
}

// === impl CredentialsLock ===

impl CredentialsLock {
    /// Takes the lock of the credentials file `file`, waiting up to 29 s for it.
    ///
    /// # Errors
    ///
    /// [`LockError`], also if the directory is missing or read-only.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped future leaves no lock file behind.
    pub async fn acquire(file: &Path, wall_clock: &WallClock) -> Result<Self, LockError> {
        let path = path_beside(file);
        let mut delay = FIRST_DELAY;
        for _ in 0..TRIES {
            let mut made = Self::create(&path);
            if matches!(&made, Err(error) if error.kind() == io::ErrorKind::AlreadyExists)
                && steal_if_stale(&path, wall_clock)
            {
                made = Self::create(&path);
            }
            match made {
                Ok(lock) => return Ok(lock),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    tokio::time::sleep(delay).await;
                    delay = delay.mul_f64(DELAY_GROWTH).min(LONGEST_DELAY);
                }
                Err(reason) => return Err(LockError::Io { path, reason }),
            }
        }
        Err(LockError::Busy(path))
    }

    fn create(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        let id = Uuid::new_v4().to_string();
        if let Err(error) = file.write_all(id.as_bytes()) {
            // Certainly this process's file: it was created a moment ago and is far from stale.
            let _best_effort = fs::remove_file(path);
            return Err(error);
        }
        if let (Some(directory), Ok(ours)) = (path.parent(), file.metadata()) {
            stale_files::remove(directory, &ours, |name| is_stolen_path(path, name));
        }
        Ok(Self {
            path: path.to_owned(),
            id,
        })
    }
}

impl Drop for CredentialsLock {
    fn drop(&mut self) {
        match fs::read_to_string(&self.path) {
            Ok(id) if id == self.id => {
                let _already_gone = fs::remove_file(&self.path);
            }
            _ => debug!(path = %self.path.display(), "The lock was lost before its release"),
        }
    }
}

/// The lock's path: the file's with another extension, as in `oauth_creds.json` and
/// `oauth_creds.lock`.
fn path_beside(file: &Path) -> PathBuf {
    let path = file.with_extension("lock");
    if path != file {
        return path;
    }
    // A credentials file with that extension must not be taken for a stale lock.
    let mut path = path.into_os_string();
    path.push(".lock");
    path.into()
}

/// Removes a lock whose owner must be dead. Renames it first: of several programs that find it
/// stale one wins, and a fresh lock that was renamed by mistake can be put back.
fn steal_if_stale(path: &Path, wall_clock: &WallClock) -> bool {
    let is_stale = |path: &Path| {
        fs::symlink_metadata(path)
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|since| {
                wall_clock()
                    .duration_since(since)
                    .is_ok_and(|it| it > STALE)
            })
    };
    if !is_stale(path) {
        return false;
    }
    let stolen_path = stolen_path_beside(path);
    if fs::rename(path, &stolen_path).is_err() {
        return false;
    }
    let stolen = is_stale(&stolen_path);
    if !stolen {
        // Another program stole it first and this is its new lock. Linking fails if there is an
        // even newer one.
        let _lost = fs::hard_link(&stolen_path, path);
    }
    let _best_effort = fs::remove_file(&stolen_path);
    debug!(path = %path.display(), stolen, "Found a stale lock");
    stolen
}

/// The path to which a lock is renamed while it is stolen. If this process is killed then, the next
/// holder of a lock removes the file. A file that is removed too early, because the stolen lock was
/// already that old, costs another attempt.
fn stolen_path_beside(path: &Path) -> PathBuf {
    let mut stolen_path = path.as_os_str().to_owned();
    stolen_path.push(format!(".{}", Uuid::new_v4()));
    stolen_path.into()
}

fn is_stolen_path(path: &Path, name: &OsStr) -> bool {
    path.file_name()
        .and_then(|lock| {
            name.to_str()?
                .strip_prefix(lock.to_str()?)?
                .strip_prefix('.')
        })
        .is_some_and(|id| Uuid::try_parse(id).is_ok())
}

/// The age at which the patient programs steal it; the impatient ones steal it after 10 s.
const STALE: Duration = Duration::from_secs(35);
/// Attempts to create the lock file, as many as the other programs make.
const TRIES: u32 = 20;
/// The wait after the first attempt, the same as the other programs'.
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// The factor by which each wait is longer than the one before.
const DELAY_GROWTH: f64 = 1.5;
/// The longest wait.
const LONGEST_DELAY: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wall_clock::system_clock;

    #[test]
    fn lies_beside_the_file_and_never_is_the_file() {
        let beside = |file| path_beside(Path::new(file));
        assert_eq!(
            beside("/a/oauth_creds.json"),
            Path::new("/a/oauth_creds.lock")
        );
        assert_eq!(beside("/a/creds"), Path::new("/a/creds.lock"));
        assert_eq!(beside("/a/creds.lock"), Path::new("/a/creds.lock.lock"));
    }

    #[test]
    fn knows_its_own_graves_by_name() {
        let path = Path::new("/a/creds.lock");
        let stolen_path = stolen_path_beside(path);
        assert_eq!(stolen_path.parent(), path.parent());
        assert!(is_stolen_path(path, stolen_path.file_name().unwrap()));
        // The second is how another program names its stolen locks.
        let id = "0d9a1c3e-8f27-4b56-9c8e-2a64d1b7f035";
        for other in [
            "creds.lock",
            &format!("creds.lock.stale.{id}"),
            &format!("other.lock.{id}"),
        ] {
            assert!(!is_stolen_path(path, OsStr::new(other)), "{other}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_after_29_seconds_of_a_live_lock() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("creds.json");
        let _held = CredentialsLock::acquire(&file, &system_clock())
            .await
            .unwrap();
        let start = tokio::time::Instant::now();
        let error = CredentialsLock::acquire(&file, &system_clock())
            .await
            .unwrap_err();
        assert!(matches!(error, LockError::Busy(_)));
        let waited = start.elapsed().as_secs();
        assert!((28..=30).contains(&waited), "{waited}");
    }
}
