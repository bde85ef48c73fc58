//! The credentials file, shared with other programs.
//!
//! Other programs may write the file in place, replace it or delete it at any time. So a read
//! tolerates a file that is missing or half-written, and a write is atomic. Nothing in this module
//! takes the lock.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use super::file_version::FileVersion;

pub use self::{shape::OAuthCredentials, write::WriteError};

mod shape;
mod write;

/// A credentials file, which may or may not exist.
#[derive(Clone, Debug)]
pub struct CredentialsFile {
    path: PathBuf,
}

/// The content of a credentials file, and the version it was read from.
#[derive(Clone, Debug)]
pub struct StoredCredentials {
    /// The content.
    pub credentials: OAuthCredentials,
    /// The version of the file.
    pub version: FileVersion,
    /// Whether other accounts of this machine may read or write the file.
    pub is_exposed: bool,
}

/// Why no credentials were read. No message holds any of the file's content.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system returned an error.
    #[error("{} cannot be read: {reason}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        reason: io::Error,
    },
    /// It is half-written, or not a credentials file.
    #[error("{} is not a complete credentials file: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// It does not exist.
    #[error("no credentials in {}", .0.display())]
    Missing(PathBuf),
    /// It is a symbolic link, a directory, a pipe or a device.
    #[error("{} is not a regular file", .0.display())]
    NotRegular(PathBuf),
}

// === impl CredentialsFile ===

impl CredentialsFile {
    /// The file at `path`, which is not opened yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The version of the file now; `None` if there is no regular file.
    pub fn version(&self) -> Option<FileVersion> {
        FileVersion::of_file(&self.path)
    }

    /// Reads the file; up to seven more times while it is half-written, because some programs write
    /// it in place.
    ///
    /// # Errors
    ///
    /// [`ReadError`]; `Malformed` only if the file stayed so for a fifth of a second.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn read(&self) -> Result<StoredCredentials, ReadError> {
        for _ in 1..SETTLE_READS {
            match self.read_once() {
                Err(ReadError::Malformed { .. }) => tokio::time::sleep(SETTLE).await,
                settled => return settled,
            }
        }
        self.read_once()
    }

    /// Reads the file once. Blocks for as long as opening and reading a few KiB takes.
    ///
    /// # Errors
    ///
    /// [`ReadError`]; `Malformed` may mean that another program is writing the file.
    pub fn read_once(&self) -> Result<StoredCredentials, ReadError> {
        let mut content = Vec::with_capacity(MAX_LEN / 16);
        let file = self.open()?;
        let metadata = file.metadata().map_err(|error| self.io(error))?;
        if !metadata.is_file() {
            return Err(ReadError::NotRegular(self.path.clone()));
        }
        let cap = MAX_LEN as u64 + 1;
        file.take(cap)
            .read_to_end(&mut content)
            .map_err(|error| self.io(error))?;
        if content.len() > MAX_LEN {
            return Err(self.malformed("it is too large to be one"));
        }
        let credentials = OAuthCredentials::parse(&content).map_err(|it| self.malformed(it))?;
        Ok(StoredCredentials {
            credentials,
            version: FileVersion::of(&metadata),
            is_exposed: metadata.mode() & 0o077 != 0,
        })
    }

    /// Replaces the file's content atomically and moves its modification time forward. Blocks until
    /// the content is on disk: call it where blocking is allowed.
    ///
    /// A file that is a mount point of its own cannot be replaced; it is written in place, and a
    /// warning is logged. The file is readable for its owner alone afterwards. Temporary files of
    /// killed writers are removed.
    ///
    /// # Errors
    ///
    /// [`WriteError`]; the old content is still there, except that a failed write in place may
    /// leave a part of the new one.
    pub fn write(&self, credentials: &OAuthCredentials) -> Result<FileVersion, WriteError> {
        write::replace(&self.path, credentials.to_json().as_bytes())
    }

    fn open(&self) -> Result<File, ReadError> {
        // Without O_NONBLOCK, opening a pipe would wait for a writer forever.
        OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&self.path)
            .map_err(|error| match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => ReadError::Missing(self.path.clone()),
                Some(libc::ELOOP | libc::ENXIO) => ReadError::NotRegular(self.path.clone()),
                _ => self.io(error),
            })
    }

    fn io(&self, reason: io::Error) -> ReadError {
        ReadError::Io {
            path: self.path.clone(),
            reason,
        }
    }

    fn malformed(&self, problem: &'static str) -> ReadError {
        ReadError::Malformed {
            path: self.path.clone(),
            problem,
        }
    }
}

/// The wait between two reads. A write in place takes well under a millisecond; a loaded machine
/// may stretch it.
const SETTLE: Duration = Duration::from_millis(25);
/// Reads of a half-written file before it counts as broken.
const SETTLE_READS: u32 = 8;

/// Far more than any credentials file needs.
const MAX_LEN: usize = 64 * 1024;
