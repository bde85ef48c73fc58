//! One renewal: under the lock of the file's other users, persisted first, published second.
//!
//! The lock may be lost at any time, so the file is read again after locking (somebody may have
//! renewed while we waited), before writing (somebody may have renewed while we asked), and
//! before believing a refusal (somebody may have spent the token first). Whoever changed the
//! refresh token in the file wins.

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
    Shared,
    state::{SHARE_OF_LIFE, State, same},
};
use crate::{
    credentials::{
        lock::{Lock, LockError},
        store::{Credentials, ReadError, Stamp, Stored},
    },
    oauth::refresh::{Grant, RefreshError},
};

/// How a renewal ended, for all who waited for it.
pub(super) type Outcome = Result<(), Arc<Failure>>;

/// A renewal that is under way: nothing until it has ended.
pub(super) type Renewal = watch::Receiver<Option<Outcome>>;

/// Why a renewal brought nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// Another try may help.
    #[error("the token could not be renewed")]
    Later(#[source] BoxError),
    /// Only a new login helps; what is wrong.
    #[error("{0}")]
    Login(String),
}

/// The task of a renewal died.
#[derive(Debug, thiserror::Error)]
#[error("the renewal ended without a result")]
struct Vanished;

/// What is to be renewed.
struct Basis {
    credentials: Credentials,
    /// The refresh token that the file holds meanwhile, if it can be read.
    on_file: Option<SecretString>,
}

/// What to do once the lock is taken.
enum Plan {
    /// Ask the endpoint.
    Ask(Basis),
    /// Nothing is left to do.
    Done,
    /// Nothing can be done: there is no refresh token.
    GiveUp(Basis),
    /// Write what is held.
    Save(Basis),
}

/// Renews the token of `shared` and tells `done`.
pub(super) async fn run(shared: Arc<Shared>, done: watch::Sender<Option<Outcome>>) {
    let outcome = renew(&shared).await;
    {
        let mut state = shared.state();
        state.renewal_ended(&outcome, Instant::now());
        shared.follow_resource(&mut state);
    }
    done.send_replace(Some(outcome));
}

async fn renew(shared: &Shared) -> Outcome {
    // What is to be replaced: if the file holds another token by now, that is the new one.
    let stale = shared
        .state()
        .credentials()
        .map(|it| it.access_token.clone());
    let _lock = lock(shared).await?;
    let read = shared.file.read().await;
    let plan = plan(&mut shared.state(), read, stale.as_ref(), shared.now())?;
    let basis = match plan {
        Plan::Ask(basis) => basis,
        Plan::Done => return Ok(()),
        Plan::GiveUp(basis) => {
            return refused(shared, basis, &"it came without a refresh token").await;
        }
        Plan::Save(basis) => {
            save(shared, basis).await;
            return Ok(());
        }
    };
    let asked_at = shared.now();
    match (shared.ask)(basis.credentials.refresh_token.clone()).await {
        Ok(grant) => {
            let new = renewed(&basis.credentials, grant, asked_at);
            settle(shared, basis, new, asked_at).await;
            Ok(())
        }
        Err(refusal @ RefreshError::Refused { .. }) => refused(shared, basis, &refusal).await,
        Err(failure @ RefreshError::Transient(_)) => Err(later(failure)),
    }
}

async fn lock(shared: &Shared) -> Result<Option<Lock>, Arc<Failure>> {
    use io::ErrorKind::{NotFound, QuotaExceeded, StorageFull};
    match Lock::acquire(shared.file.path(), &shared.settings.wall_clock).await {
        Ok(lock) => Ok(Some(lock)),
        // The new token is kept in memory and written later. Of other errors, such as a read-only
        // directory, none will pass: a renewed token could never be stored, and the programs that
        // share the file would be left with a spent one.
        Err(LockError::Io { reason, path })
            if matches!(reason.kind(), NotFound | QuotaExceeded | StorageFull) =>
        {
            warn!(error = %reason, path = %path.display(), "Renewing the token without a lock");
            Ok(None)
        }
        Err(failure) => Err(later(failure)),
    }
}

/// Decides what to do, now that the file was read again under the lock.
fn plan(
    state: &mut State,
    read: Result<Stored, ReadError>,
    stale: Option<&SecretString>,
    now: SystemTime,
) -> Result<Plan, Arc<Failure>> {
    let on_file = read
        .as_ref()
        .ok()
        .map(|stored| stored.credentials.refresh_token.clone());
    let held = state.credentials().cloned();
    if let Some(credentials) = held.clone().filter(|_| state.is_behind(on_file.as_ref())) {
        let basis = Basis {
            credentials,
            on_file,
        };
        return Ok(if state.is_due(now) {
            Plan::Ask(basis)
        } else {
            Plan::Save(basis)
        });
    }
    let found = match read {
        Ok(stored) => {
            let credentials = &stored.credentials;
            let is_new = stale.is_none_or(|stale| !same(stale, &credentials.access_token));
            if is_new && credentials.valid_for(now) > worth_taking(&stored) {
                state.follow(stored);
                info!("Took over a token that another program has renewed");
                return Ok(Plan::Done);
            }
            Some(stored.credentials)
        }
        // Somebody deleted or broke the file: ours are the only ones left, and are written back.
        Err(_) if held.is_some() => None,
        Err(problem) => return Err(Failure::Login(problem.to_string()).into()),
    };
    let (mut refused, mut fixed) = (None, None);
    for credentials in found.into_iter().chain(held) {
        match state.refused_for(&credentials) {
            Some(failure) => refused = Some(failure),
            None if credentials.can_be_renewed() => {
                return Ok(Plan::Ask(Basis {
                    credentials,
                    on_file,
                }));
            }
            None => fixed = Some(credentials),
        }
    }
    let credentials = fixed.ok_or_else(|| refused.unwrap_or_else(Failure::vanished))?;
    Ok(Plan::GiveUp(Basis {
        credentials,
        on_file,
    }))
}

/// What the token that `stored` holds must still live for to be taken over instead of renewed.
///
/// The other programs' margin is half a minute. A token that lives for less would never be worth
/// taking, and every program would renew what another has just renewed; so it is never more than
/// the last quarter of the token's life, before which nobody here renews it either. The file says
/// when the token ends, and its time when it began.
fn worth_taking(stored: &Stored) -> Duration {
    let began = stored.stamp.modified();
    let lifetime = stored.credentials.valid_for(began);
    MARGIN.min(lifetime / SHARE_OF_LIFE)
}

/// See [`worth_taking`].
const MARGIN: Duration = Duration::from_secs(30);

/// What `grant`, asked for at `now`, makes of `old`.
fn renewed(old: &Credentials, grant: Grant, now: SystemTime) -> Credentials {
    Credentials {
        expiry_date: grant.expiry_date(now),
        access_token: grant.access_token,
        token_type: grant.token_type,
        refresh_token: grant
            .refresh_token
            .unwrap_or_else(|| old.refresh_token.clone()),
        resource_url: grant.resource_url.or_else(|| old.resource_url.clone()),
    }
}

/// Stores and publishes what the endpoint gave, unless somebody else was faster.
async fn settle(shared: &Shared, basis: Basis, new: Credentials, issued: SystemTime) {
    if let Ok(stored) = shared.file.read().await
        && !basis.accounts_for(&stored.credentials.refresh_token)
    {
        shared.state().follow(stored);
        info!("Another program renewed the token at the same time; its token is kept");
        return;
    }
    let saved = write(shared, &new).await;
    let lives_for = new.valid_for(issued);
    let mut state = shared.state();
    state.publish(new, issued);
    note_saved(&mut state, saved, basis.on_file);
    info!(?lives_for, "Renewed the token");
}

/// The endpoint refused, or there is nothing to ask it with. Final only if that goes for what the
/// file still holds: otherwise another program was faster, and its token is there.
async fn refused(shared: &Shared, basis: Basis, refusal: &(dyn fmt::Display + Sync)) -> Outcome {
    if let Ok(stored) = shared.file.read().await
        && !basis.accounts_for(&stored.credentials.refresh_token)
    {
        shared.state().follow(stored);
        info!("Another program has renewed the token meanwhile; its token is taken over");
        return Ok(());
    }
    let path = shared.file.path().display();
    let failure = Arc::new(Failure::Login(format!(
        "cannot renew the token in {path}: {refusal}"
    )));
    error!(problem = %failure, hint = shared.settings.login_hint, "Login required");
    shared
        .state()
        .refuse(basis.credentials.refresh_token, failure.clone());
    Err(failure)
}

/// Stores what is published already.
async fn save(shared: &Shared, basis: Basis) {
    let saved = write(shared, &basis.credentials).await;
    note_saved(&mut shared.state(), saved, basis.on_file);
}

/// Writes on a thread that may block: the disk can take its time.
async fn write(shared: &Shared, credentials: &Credentials) -> Result<Stamp, BoxError> {
    let (file, credentials) = (shared.file.clone(), credentials.clone());
    Ok(tokio::task::spawn_blocking(move || file.write(&credentials)).await??)
}

fn note_saved(state: &mut State, saved: Result<Stamp, BoxError>, on_file: Option<SecretString>) {
    match saved {
        Ok(stamp) => state.saved(stamp),
        Err(error) => {
            warn!(%error, "Keeping the renewed token in memory; it is written later");
            state.not_saved(on_file, Instant::now());
        }
    }
}

fn later(failure: impl Error + Send + Sync + 'static) -> Arc<Failure> {
    warn!(
        error = &failure as &(dyn Error + 'static),
        "Could not renew the token"
    );
    Arc::new(Failure::Later(failure.into()))
}

// === impl Failure ===

impl Failure {
    /// For those who waited for a renewal that died.
    pub(super) fn vanished() -> Arc<Self> {
        Arc::new(Self::Later(Vanished.into()))
    }

    /// Whether the next try has to wait. One that only waited for the lock has waited enough, and
    /// has asked nobody.
    pub(super) fn asks_for_a_pause(&self) -> bool {
        match self {
            Self::Later(cause) => !matches!(cause.downcast_ref(), Some(LockError::Busy(_))),
            Self::Login(_) => false,
        }
    }
}

// === impl Basis ===

impl Basis {
    /// Whether a file that holds `refresh_token` is as we left it.
    fn accounts_for(&self, refresh_token: &SecretString) -> bool {
        same(refresh_token, &self.credentials.refresh_token)
            || self
                .on_file
                .as_ref()
                .is_some_and(|it| same(it, refresh_token))
    }
}
