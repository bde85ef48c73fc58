//! The credentials file, shared with programs that are not ours.
//!
//! Others may write it in place, replace it or delete it at any time, so a read tolerates a file
//! that is missing or half-written, and a write is atomic. Nothing here takes the lock.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

pub use self::{shape::Credentials, write::WriteError};

mod shape;
mod write;

/// A credentials file, which may or may not exist.
#[derive(Clone, Debug)]
pub struct CredentialsFile {
    path: PathBuf,
}

/// What a file held, and which state of the file that was.
#[derive(Clone, Debug)]
pub struct Stored {
    /// What it held.
    pub credentials: Credentials,
    /// The state of the file it was read from.
    pub stamp: Stamp,
    /// Whether other accounts of this machine may read or write the file.
    pub is_exposed: bool,
}

/// Tells one state of the file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    modified: SystemTime,
    inode: u64,
    len: u64,
}

/// Why a file gave no credentials. No text holds any of its content.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system refused.
    #[error("{} cannot be read: {reason}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// Half-written, or not a credentials file.
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
    /// A symbolic link, a directory, a pipe, a device.
    #[error("{} is not a regular file", .0.display())]
    NotRegular(PathBuf),
}

// === impl CredentialsFile ===

impl CredentialsFile {
    /// The file at `path`; it is not touched yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The state of the file now; `None` where there is none that could be read.
    pub fn stamp(&self) -> Option<Stamp> {
        let metadata = fs::symlink_metadata(&self.path).ok()?;
        metadata.is_file().then(|| Stamp::of(&metadata))
    }

    /// Reads the file, and reads it again a few times if it is half-written: some programs
    /// write it in place.
    ///
    /// # Errors
    ///
    /// [`ReadError`]; `Malformed` only if the file stayed so for a fifth of a second.
    pub async fn read(&self) -> Result<Stored, ReadError> {
        for _ in 1..SETTLE_READS {
            match self.read_once() {
                Err(ReadError::Malformed { .. }) => tokio::time::sleep(SETTLE).await,
                settled => return settled,
            }
        }
        self.read_once()
    }

    /// Reads the file as it is at this moment. Blocks for as long as opening and reading a few
    /// KiB takes.
    ///
    /// # Errors
    ///
    /// [`ReadError`]; `Malformed` may mean that somebody is writing just now.
    pub fn read_once(&self) -> Result<Stored, ReadError> {
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
        let credentials = Credentials::parse(&content).map_err(|it| self.malformed(it))?;
        Ok(Stored {
            credentials,
            stamp: Stamp::of(&metadata),
            is_exposed: metadata.mode() & 0o077 != 0,
        })
    }

    /// Replaces the file's content, so that a reader sees the old or the new one and never
    /// anything else; the file's time of modification moves forward. Blocks until the disk has
    /// it: call it where blocking is allowed.
    ///
    /// A file that is a mount point of its own cannot be replaced; it is written in place, with
    /// a warning. In every case it is for its owner alone afterwards. What writers left behind
    /// that were killed is swept up.
    ///
    /// # Errors
    ///
    /// [`WriteError`]; the old content is still there, except that writing in place may leave a
    /// part of the new one.
    pub fn write(&self, credentials: &Credentials) -> Result<Stamp, WriteError> {
        write::replace(&self.path, credentials.to_json().as_bytes())
    }

    fn open(&self) -> Result<File, ReadError> {
        // Without O_NONBLOCK, opening a pipe would wait for a writer for ever.
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

/// A write in place takes well under a millisecond; a loaded machine may stretch it.
const SETTLE: Duration = Duration::from_millis(25);
/// Readings of a half-written file before it counts as broken.
const SETTLE_READS: u32 = 8;

/// No credentials file comes near it; what does is not one.
const MAX_LEN: usize = 64 * 1024;

// === impl Stamp ===

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
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
}
