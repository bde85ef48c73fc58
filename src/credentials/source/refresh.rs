//! One refresh, under the lock that the programs sharing the file use: first stored, then
//! published.
//!
//! The lock may be lost at any time. So the file is read again after locking (another program may
//! have refreshed the token during the wait), before writing (or during the request), and before a
//! refusal is believed (another program may have spent the refresh token first). The program that
//! changed the refresh token in the file wins.

use std::{
    error::Error,
    fmt, io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use pacegate_layers::error::BoxError;
use secrecy::SecretString;
use tokio::{sync::watch, time::Instant};
use tracing::{error, info, warn};

use super::{
    SourceInner,
    state::{LIFETIME_DIVISOR, SourceState, same_secret},
};
use crate::{
    credentials::{
        file_version::FileVersion,
        lock::{CredentialsLock, LockError},
        store::{OAuthCredentials, ReadError, StoredCredentials},
    },
    oauth::refresh::{IssuedTokens, RefreshError},
};

/// The result of a refresh, for every caller that waited for it.
pub(super) type RefreshResult = Result<(), Arc<RefreshFailure>>;

/// A running refresh: `None` until it has ended.
pub(super) type PendingRefresh = watch::Receiver<Option<RefreshResult>>;

/// Why a refresh brought no token.
#[derive(Debug, thiserror::Error)]
pub(super) enum RefreshFailure {
    /// Another attempt may succeed.
    #[error("the token could not be renewed")]
    Transient(#[source] BoxError),
    /// Only a new login helps; the message says why.
    #[error("{0}")]
    LoginRequired(String),
}

/// The task of a refresh died.
#[derive(Debug, thiserror::Error)]
#[error("the renewal ended without a result")]
struct TaskDied;

/// The credentials to refresh.
struct RefreshInput {
    credentials: OAuthCredentials,
    /// The refresh token in the file, if that can be read.
    file_refresh_token: Option<SecretString>,
}

/// What to do once the lock is taken.
enum RefreshPlan {
    /// Send the refresh token to the endpoint.
    Request(RefreshInput),
    /// Nothing: another program has refreshed the token, or the upstream rejects every new one.
    Done,
    /// Fail: there is no refresh token.
    GiveUp(RefreshInput),
    /// Write the current credentials to the file.
    Save(RefreshInput),
}

/// Refreshes the token of `inner` and sends the result to `done`.
pub(super) async fn run(inner: Arc<SourceInner>, done: watch::Sender<Option<RefreshResult>>) {
    let result = refresh(&inner).await;
    {
        let mut state = inner.state();
        state.refresh_ended(&result, Instant::now());
        inner.publish_resource(&mut state);
    }
    done.send_replace(Some(result));
}

async fn refresh(inner: &SourceInner) -> RefreshResult {
    // The token to replace: if the file holds another one by now, that is the new one.
    let stale = inner
        .state()
        .credentials()
        .map(|it| it.access_token.clone());
    let _lock = lock(inner).await?;
    let read = inner.file.read().await;
    let clocks = (inner.now(), Instant::now());
    let plan = plan(&mut inner.state(), read, stale.as_ref(), clocks)?;
    let input = match plan {
        RefreshPlan::Request(input) => input,
        RefreshPlan::Done => return Ok(()),
        RefreshPlan::GiveUp(input) => {
            return handle_refusal(inner, input, &"it came without a refresh token").await;
        }
        RefreshPlan::Save(input) => {
            save(inner, input).await;
            return Ok(());
        }
    };
    let asked_at = inner.now();
    inner.state().count_renewal(Instant::now());
    match (inner.send_refresh)(input.credentials.refresh_token.clone()).await {
        Ok(tokens) => {
            let new = refreshed(&input.credentials, tokens, asked_at);
            store_and_publish(inner, input, new, asked_at).await;
            Ok(())
        }
        Err(refusal @ RefreshError::Refused { .. }) => handle_refusal(inner, input, &refusal).await,
        Err(failure @ RefreshError::Transient(_)) => Err(transient(failure)),
    }
}

async fn lock(inner: &SourceInner) -> Result<Option<CredentialsLock>, Arc<RefreshFailure>> {
    use io::ErrorKind::{NotFound, QuotaExceeded, StorageFull};
    match CredentialsLock::acquire(inner.file.path(), &inner.settings.wall_clock).await {
        Ok(lock) => Ok(Some(lock)),
        // The new token is kept in memory and written later. Other errors, such as a read-only
        // directory, do not pass: a refreshed token could never be stored, and the programs that
        // share the file would be left with a spent one.
        Err(LockError::Io { reason, path })
            if matches!(reason.kind(), NotFound | QuotaExceeded | StorageFull) =>
        {
            warn!(error = %reason, path = %path.display(), "Renewing the token without a lock");
            Ok(None)
        }
        Err(failure) => Err(transient(failure)),
    }
}

/// Decides what to do after the file was read again under the lock, at `now`, which the runtime
/// calls `instant`.
fn plan(
    state: &mut SourceState,
    read: Result<StoredCredentials, ReadError>,
    stale: Option<&SecretString>,
    (now, instant): (SystemTime, Instant),
) -> Result<RefreshPlan, Arc<RefreshFailure>> {
    let file_refresh_token = read
        .as_ref()
        .ok()
        .map(|stored| stored.credentials.refresh_token.clone());
    let current = state.credentials().cloned();
    if let Some(credentials) = current
        .clone()
        .filter(|_| state.file_is_behind(file_refresh_token.as_ref()))
    {
        let input = RefreshInput {
            credentials,
            file_refresh_token,
        };
        return Ok(if state.is_due(now, instant) {
            RefreshPlan::Request(input)
        } else {
            RefreshPlan::Save(input)
        });
    }
    let found = match read {
        Ok(stored) => {
            let credentials = &stored.credentials;
            let is_new = stale.is_none_or(|stale| !same_secret(stale, &credentials.access_token));
            if is_new && credentials.valid_for(now) > min_remaining_life(&stored) {
                state.adopt(stored);
                info!("Took over a token that another program has renewed");
                return Ok(RefreshPlan::Done);
            }
            Some(stored.credentials)
        }
        // The file was deleted or broken: the current credentials are the only ones left, and are
        // written back.
        Err(_) if current.is_some() => None,
        Err(problem) => return Err(RefreshFailure::LoginRequired(problem.to_string()).into()),
    };
    if state.keeps_rejected(instant) {
        return Ok(RefreshPlan::Done);
    }
    let (mut refused, mut fixed) = (None, None);
    for credentials in found.into_iter().chain(current) {
        match state.refused_for(&credentials) {
            Some(failure) => refused = Some(failure),
            None if credentials.can_be_refreshed() => {
                return Ok(RefreshPlan::Request(RefreshInput {
                    credentials,
                    file_refresh_token,
                }));
            }
            None => fixed = Some(credentials),
        }
    }
    let credentials = fixed.ok_or_else(|| refused.unwrap_or_else(RefreshFailure::task_died))?;
    Ok(RefreshPlan::GiveUp(RefreshInput {
        credentials,
        file_refresh_token,
    }))
}

/// How long the token in `stored` must still be valid to be used instead of a refresh.
///
/// The other programs' margin is half a minute. A token that lives for less than that would never
/// be used, and each program would refresh what another one has just refreshed. So the margin is at
/// most the last quarter of the token's life, before which nothing here refreshes it either. The
/// file says when the token ends, and the file's modification time when it began.
fn min_remaining_life(stored: &StoredCredentials) -> Duration {
    let began = stored.version.modified();
    let lifetime = stored.credentials.valid_for(began);
    MARGIN.min(lifetime / LIFETIME_DIVISOR)
}

/// See [`min_remaining_life`].
const MARGIN: Duration = Duration::from_secs(30);

/// The credentials that `tokens`, requested at `now`, make of `old`.
fn refreshed(old: &OAuthCredentials, tokens: IssuedTokens, now: SystemTime) -> OAuthCredentials {
    OAuthCredentials {
        expiry_date: tokens.expiry_date(now),
        access_token: tokens.access_token,
        token_type: tokens.token_type,
        refresh_token: tokens
            .refresh_token
            .unwrap_or_else(|| old.refresh_token.clone()),
        resource_url: tokens.resource_url.or_else(|| old.resource_url.clone()),
    }
}

/// Stores and publishes the new credentials, unless another program was faster.
async fn store_and_publish(
    inner: &SourceInner,
    input: RefreshInput,
    new: OAuthCredentials,
    issued: SystemTime,
) {
    if let Ok(stored) = inner.file.read().await
        && !input.recognizes(&stored.credentials.refresh_token)
    {
        inner.state().adopt(stored);
        info!("Another program renewed the token at the same time; its token is kept");
        return;
    }
    let saved = write(inner, &new).await;
    let lives_for = new.valid_for(issued);
    let mut state = inner.state();
    state.publish(new, issued);
    record_saved(&mut state, saved, input.file_refresh_token);
    info!(?lives_for, "Renewed the token");
}

/// Handles a refusal of the endpoint, or a missing refresh token. It is final only if it applies to
/// what the file still holds: otherwise another program was faster, and its token is there.
async fn handle_refusal(
    inner: &SourceInner,
    input: RefreshInput,
    refusal: &(dyn fmt::Display + Sync),
) -> RefreshResult {
    if let Ok(stored) = inner.file.read().await
        && !input.recognizes(&stored.credentials.refresh_token)
    {
        inner.state().adopt(stored);
        info!("Another program has renewed the token meanwhile; its token is taken over");
        return Ok(());
    }
    let path = inner.file.path().display();
    let failure = Arc::new(RefreshFailure::LoginRequired(format!(
        "cannot renew the token in {path}: {refusal}"
    )));
    error!(problem = %failure, hint = inner.settings.login_hint, "Login required");
    inner
        .state()
        .remember_refusal(input.credentials.refresh_token, failure.clone());
    Err(failure)
}

/// Stores credentials that are published already.
async fn save(inner: &SourceInner, input: RefreshInput) {
    let saved = write(inner, &input.credentials).await;
    record_saved(&mut inner.state(), saved, input.file_refresh_token);
}

/// Writes on a blocking thread: the disk can take its time.
async fn write(
    inner: &SourceInner,
    credentials: &OAuthCredentials,
) -> Result<FileVersion, BoxError> {
    let (file, credentials) = (inner.file.clone(), credentials.clone());
    Ok(tokio::task::spawn_blocking(move || file.write(&credentials)).await??)
}

fn record_saved(
    state: &mut SourceState,
    saved: Result<FileVersion, BoxError>,
    file_refresh_token: Option<SecretString>,
) {
    match saved {
        Ok(version) => state.mark_saved(version),
        Err(error) => {
            warn!(%error, "Keeping the renewed token in memory; it is written later");
            state.mark_unsaved(file_refresh_token, Instant::now());
        }
    }
}

fn transient(failure: impl Error + Send + Sync + 'static) -> Arc<RefreshFailure> {
    warn!(
        error = &failure as &(dyn Error + 'static),
        "Could not renew the token"
    );
    Arc::new(RefreshFailure::Transient(failure.into()))
}

// === impl RefreshFailure ===

impl RefreshFailure {
    /// The failure for callers that waited for a refresh whose task died.
    pub(super) fn task_died() -> Arc<Self> {
        Arc::new(Self::Transient(TaskDied.into()))
    }

    /// Whether the next attempt has to wait. Not if this one only waited for the lock: it has sent
    /// no request.
    pub(super) fn needs_pause(&self) -> bool {
        match self {
            Self::Transient(cause) => !matches!(cause.downcast_ref(), Some(LockError::Busy(_))),
            Self::LoginRequired(_) => false,
        }
    }
}

// === impl RefreshInput ===

impl RefreshInput {
    /// Whether `refresh_token`, read from the file, is one that the file is known to hold.
    fn recognizes(&self, refresh_token: &SecretString) -> bool {
        same_secret(refresh_token, &self.credentials.refresh_token)
            || self
                .file_refresh_token
                .as_ref()
                .is_some_and(|it| same_secret(it, refresh_token))
    }
}
