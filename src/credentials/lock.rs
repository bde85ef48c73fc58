//! The lock file that programs sharing a credentials file take before they renew the token.
//!
//! The protocol is theirs, not ours: the file is made with `O_EXCL`, holds a random id, is given
//! up for dead by its age, and some of its users delete it whoever it belongs to. So holding a
//! [`Lock`] makes a collision unlikely, never impossible: whoever holds it still compares the
//! file before writing, and is done in under ten seconds, the age at which the most impatient
//! program steals it. Its time is never touched to prolong it.

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

use super::{WallClock, leftovers::sweep};

/// A lock file that was ours when it was made. Dropping it removes the file if it still is.
#[derive(Debug)]
#[must_use = "dropping the lock releases it"]
pub struct Lock {
    path: PathBuf,
    id: String,
}

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody held it all the time.
    #[error("{} is held by another program", .0.display())]
    Busy(PathBuf),
    /// It cannot be made.
    #[error("{} cannot be made: {reason}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
}

// === impl Lock ===

impl Lock {
    /// Takes the lock that belongs to the credentials file `file`, waiting up to 29 s for it.
    ///
    /// # Errors
    ///
    /// [`LockError`], also if the directory is missing or read-only.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves nothing behind.
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
            // Ours without doubt: it was made a moment ago and is far from stale.
            let _best_effort = fs::remove_file(path);
            return Err(error);
        }
        if let (Some(directory), Ok(ours)) = (path.parent(), file.metadata()) {
            sweep(directory, &ours, |name| is_grave(path, name));
        }
        Ok(Self {
            path: path.to_owned(),
            id,
        })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        match fs::read_to_string(&self.path) {
            Ok(id) if id == self.id => {
                let _already_gone = fs::remove_file(&self.path);
            }
            _ => debug!(path = %self.path.display(), "The lock was lost before its release"),
        }
    }
}

/// The lock's path: the extension replaced, as in `oauth_creds.json` and `oauth_creds.lock`.
fn path_beside(file: &Path) -> PathBuf {
    let path = file.with_extension("lock");
    if path != file {
        return path;
    }
    // A credentials file that is called so itself must not be stolen from as a stale lock.
    let mut path = path.into_os_string();
    path.push(".lock");
    path.into()
}

/// Removes a lock whose owner must be dead. By rename first: of several who find it stale, one
/// wins, and a lock that was new after all can be put back.
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
    let grave = grave_beside(path);
    if fs::rename(path, &grave).is_err() {
        return false;
    }
    let stolen = is_stale(&grave);
    if !stolen {
        // Another thief was faster and this is its lock. Linking fails if there is a newer one.
        let _lost = fs::hard_link(&grave, path);
    }
    let _best_effort = fs::remove_file(&grave);
    debug!(path = %path.display(), stolen, "Found a stale lock");
    stolen
}

/// Where a lock that is being stolen from `path` lies for a moment. If its thief is killed there,
/// whoever takes the lock later sweeps it. One that is swept under its thief's hands, because the
/// lock in it was that old already, costs the thief another try.
fn grave_beside(path: &Path) -> PathBuf {
    let mut grave = path.as_os_str().to_owned();
    grave.push(format!(".{}", Uuid::new_v4()));
    grave.into()
}

fn is_grave(path: &Path, name: &OsStr) -> bool {
    path.file_name()
        .and_then(|lock| {
            name.to_str()?
                .strip_prefix(lock.to_str()?)?
                .strip_prefix('.')
        })
        .is_some_and(|id| Uuid::try_parse(id).is_ok())
}

/// The age at which the patient programs steal it; the impatient ones do so after 10 s.
const STALE: Duration = Duration::from_secs(35);
/// Attempts to make the lock file, as the other programs do it.
const TRIES: u32 = 20;
/// The wait after the first attempt, as the other programs do it.
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// How much longer each wait is than the one before.
const DELAY_GROWTH: f64 = 1.5;
/// No wait is longer.
const LONGEST_DELAY: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::system_clock;

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
        let grave = grave_beside(path);
        assert_eq!(grave.parent(), path.parent());
        assert!(is_grave(path, grave.file_name().unwrap()));
        // The second is how another program calls its own.
        let id = "0d9a1c3e-8f27-4b56-9c8e-2a64d1b7f035";
        for other in [
            "creds.lock",
            &format!("creds.lock.stale.{id}"),
            &format!("other.lock.{id}"),
        ] {
            assert!(!is_grave(path, OsStr::new(other)), "{other}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_after_29_seconds_of_a_live_lock() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("creds.json");
        let _held = Lock::acquire(&file, &system_clock()).await.unwrap();
        let start = tokio::time::Instant::now();
        let error = Lock::acquire(&file, &system_clock()).await.unwrap_err();
        assert!(matches!(error, LockError::Busy(_)));
        let waited = start.elapsed().as_secs();
        assert!((28..=30).contains(&waited), "{waited}");
    }
}
