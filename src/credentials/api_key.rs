//! An API key as a token source.
//!
//! A key from a file is read again when the file changes, so a key can be replaced without a
//! restart; [`file_version`](super::file_version) says when it is checked. If the file is gone or
//! holds no key, the last key stays in use.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use pacegate_layers::token::{BearerToken, TokenFuture, TokenSource};
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;
use tracing::{info, warn};

use super::file_version::{CheckTimer, FileVersion};
use crate::config::ApiKey;

/// The API key of one upstream.
pub struct ApiKeySource {
    reference: String,
    file: Option<PathBuf>,
    state: Mutex<KeyState>,
}

struct KeyState {
    token: BearerToken,
    checks: CheckTimer,
    /// The version of the file at the last check; `None` where there was none.
    version: Option<FileVersion>,
}

/// Why a key cannot be sent. No message shows the key.
#[derive(Debug, thiserror::Error)]
pub enum ApiKeyError {
    /// The reference leads to an empty key.
    #[error("the API key from {reference} is empty; put the provider's key there")]
    Empty {
        /// The reference as written in the config.
        reference: String,
    },
    /// The key file cannot be read any more.
    #[error("the API key from {reference} cannot be read: {reason}")]
    Unreadable {
        /// The reference as written in the config.
        reference: String,
        /// The system's error.
        reason: io::Error,
    },
    /// The key has characters that no header carries, such as a line break.
    #[error(
        "the API key from {reference} has characters that an HTTP header cannot carry; it must be \
         the key alone, on one line"
    )]
    Unsendable {
        /// The reference as written in the config.
        reference: String,
    },
}

// === impl ApiKeySource ===

impl ApiKeySource {
    /// A source of `key`, without the white space around it: a key file usually ends with a line
    /// break.
    ///
    /// # Errors
    ///
    /// [`ApiKeyError`] if the key is empty or cannot stand in a header.
    pub fn new(key: &ApiKey) -> Result<Self, ApiKeyError> {
        let state = KeyState {
            token: token(key.key.expose_secret(), 0, &key.reference)?,
            checks: CheckTimer::default(),
            version: None,
        };
        Ok(Self {
            reference: key.reference.clone(),
            file: key.file.clone(),
            state: Mutex::new(state),
        })
    }

    /// Reads the key again if its file has changed. Blocks for some microseconds, for a few hundred
    /// bytes in the page cache.
    fn reload_if_changed(&self, file: &Path, state: &mut KeyState) {
        if !state.checks.begin_check(Instant::now()) {
            return;
        }
        // Orchestrators mount secrets behind symbolic links, so those are followed. A pipe, such as
        // that of a shell's `<(…)`, has no version: it was read once, when the config was loaded.
        let version = FileVersion::of_link_target(file);
        if version == state.version {
            return;
        }
        state.version = version;
        match self.read(file, state.token.generation() + 1) {
            Ok(token) if token.header() == state.token.header() => {}
            Ok(token) => {
                state.token = token;
                info!(reference = self.reference, "Took over a changed API key");
            }
            Err(error) => warn!(%error, "Keeping the API key in use"),
        }
    }

    fn read(&self, file: &Path, generation: u64) -> Result<BearerToken, ApiKeyError> {
        let mut key = String::new();
        File::open(file)
            .and_then(|file| file.take(MAX_LEN).read_to_string(&mut key))
            .map_err(|reason| ApiKeyError::Unreadable {
                reference: self.reference.clone(),
                reason,
            })?;
        token(
            SecretString::from(key).expose_secret(),
            generation,
            &self.reference,
        )
    }
}

impl TokenSource for ApiKeySource {
    fn token(&self) -> TokenFuture {
        // Nothing panics between two changes of the state.
        let mut state = self.state.lock();
        if let Some(file) = &self.file {
            self.reload_if_changed(file, &mut state);
        }
        TokenFuture::ready(Ok(state.token.clone()))
    }

    fn refresh(&self, _stale: &BearerToken) -> TokenFuture {
        self.token()
    }
}

impl fmt::Debug for ApiKeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKeySource")
            .field("reference", &self.reference)
            .finish_non_exhaustive()
    }
}

/// The bearer token for `key`.
fn token(key: &str, generation: u64, reference: &str) -> Result<BearerToken, ApiKeyError> {
    let reference = reference.to_owned();
    match key.trim() {
        "" => Err(ApiKeyError::Empty { reference }),
        key => BearerToken::new(key, generation).map_err(|_| ApiKeyError::Unsendable { reference }),
    }
}

/// Far more than any key needs.
const MAX_LEN: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::credentials::file_version::CHECK_INTERVAL;

    fn key(key: &str, file: Option<PathBuf>) -> ApiKey {
        ApiKey {
            key: key.into(),
            problem: None,
            file,
            reference: "file /run/key".to_owned(),
        }
    }

    async fn given(source: &ApiKeySource) -> String {
        let token = source.token().await.unwrap();
        token.header().to_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn gives_the_key_without_the_line_break_of_its_file() {
        let source = ApiKeySource::new(&key("sk-1\n", None)).unwrap();
        assert_eq!(given(&source).await, "Bearer sk-1");
    }

    #[test]
    fn names_the_reference_and_not_the_key_when_it_cannot_be_sent() {
        let error = ApiKeySource::new(&key("canary\nsk-2", None)).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("file /run/key") && !error.contains("canary"),
            "{error}"
        );
        assert!(matches!(
            ApiKeySource::new(&key(" \n", None)),
            Err(ApiKeyError::Empty { .. })
        ));
    }

    #[test]
    fn debug_output_holds_no_part_of_the_key() {
        let source = ApiKeySource::new(&key("canary", None)).unwrap();
        assert!(!format!("{source:?}").contains("canary"));
    }

    #[tokio::test(start_paused = true)]
    async fn follows_its_file_within_five_seconds_and_reads_it_only_when_it_has_changed() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        fs::write(&file, "sk-1\n").unwrap();
        let source = ApiKeySource::new(&key("sk-1", Some(file.clone()))).unwrap();
        let stale = source.token().await.unwrap();

        fs::write(&file, "sk-long-2\n").unwrap();
        assert_eq!(given(&source).await, "Bearer sk-1", "it looked too soon");
        tokio::time::sleep(CHECK_INTERVAL).await;
        let refreshed = source.refresh(&stale).await.unwrap();
        assert_eq!(refreshed.header(), "Bearer sk-long-2");
        assert_ne!(refreshed.generation(), stale.generation());

        tokio::time::sleep(CHECK_INTERVAL).await;
        let same = source.token().await.unwrap();
        assert_eq!(same.generation(), refreshed.generation());
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_gone_or_broken_leaves_the_key_in_use_until_it_is_whole_again() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        let source = ApiKeySource::new(&key("sk-1", Some(file.clone()))).unwrap();
        for content in [
            None,
            Some(""),
            Some("two\nlines"),
            Some("sk-\u{7}"),
            None,
            Some("sk-2"),
        ] {
            match content {
                Some(content) => fs::write(&file, content).unwrap(),
                None => drop(fs::remove_file(&file)),
            }
            tokio::time::sleep(CHECK_INTERVAL).await;
            let expected = match content {
                Some("sk-2") => "Bearer sk-2",
                _ => "Bearer sk-1",
            };
            assert_eq!(given(&source).await, expected, "{content:?}");
        }
    }

    #[tokio::test]
    async fn a_pipe_is_not_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        let source = ApiKeySource::new(&key("sk-1", Some(pipe))).unwrap();
        assert_eq!(given(&source).await, "Bearer sk-1");
    }
}
