//! A token source that serves the tokens of a shared credentials file and refreshes them.
//!
//! A valid token is returned at once. Some time before it expires, it is refreshed in the
//! background. Once it has expired, or the upstream has rejected it, callers wait for the refresh.
//! All callers share one refresh, which runs in a task of its own: a caller that is dropped does
//! not stop it. `state` holds the token and decides what to do next.
//!
//! A token that is rejected right after its refresh is refreshed a few times only; `renewals` says
//! how often. After that callers get it as it is, and the upstream's own responses reach clients.
//!
//! Checking and reading the file blocks for some tens of microseconds, less than a trip through the
//! blocking pool. Writing waits for the disk and goes through the pool.

use std::{
    fmt,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Once},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body::Body;
use http_body_util::Full;
use pacegate_layers::{
    error::BoxError,
    token::{BearerToken, TokenError, TokenFuture, TokenSource},
};
use parking_lot::{Mutex, MutexGuard};
use secrecy::SecretString;
use tokio::{sync::watch, time::Instant};
use tokio_util::task::TaskTracker;
use tower::Service;
use tracing::{Instrument, info_span, warn};

use self::{
    refresh::{PendingRefresh, RefreshFailure, RefreshResult},
    state::{Action, SourceState, TokenState},
};
use super::store::{CredentialsFile, ReadError, StoredCredentials};
use crate::{
    config,
    oauth::refresh::{IssuedTokens, RefreshError, TokenEndpoint, refresh},
    wall_clock::{WallClock, system_clock},
};

mod refresh;
mod renewals;
mod resource;
mod state;
#[cfg(test)]
mod tests;

/// Settings of an [`OAuthSource`].
#[derive(Clone)]
pub struct Settings {
    /// The credentials file.
    pub file: PathBuf,
    /// The endpoint that refreshes tokens.
    pub endpoint: TokenEndpoint,
    /// How long before expiry a token is refreshed in the background.
    pub early: Duration,
    /// Hosts, with or without a port, that a `resource_url` may name.
    pub resource_hosts: Vec<String>,
    /// How to log in; completes the sentence `no credentials in PATH; …`.
    pub login_hint: String,
    /// The clock that expiry and the age of locks are measured by.
    pub wall_clock: WallClock,
}

/// The tokens of one credentials file. Clones share them.
#[derive(Clone)]
pub struct OAuthSource(Arc<SourceInner>);

/// The part that the source and its running refresh share.
struct SourceInner {
    settings: Settings,
    file: CredentialsFile,
    send_refresh: RefreshFn,
    tasks: TaskTracker,
    state: Mutex<SourceState>,
    resource: watch::Sender<Option<Uri>>,
    /// Logs once that the file is open to other accounts.
    exposed: Once,
}

/// Sends a refresh token to the endpoint. Boxed because it runs once an hour.
type RefreshFn = Box<dyn Fn(SecretString) -> RefreshFuture + Send + Sync>;
type RefreshFuture = Pin<Box<dyn Future<Output = Result<IssuedTokens, RefreshError>> + Send>>;

// === impl Settings ===

impl Settings {
    /// The settings of the configuration, with the machine's clock.
    pub fn new(
        oauth: &config::OAuth,
        refresh: &config::TokenRefreshSettings,
        login_hint: impl Into<String>,
    ) -> Self {
        Self {
            file: oauth.file.clone(),
            endpoint: TokenEndpoint::configured(oauth),
            early: refresh.early,
            resource_hosts: oauth.resource_hosts.clone(),
            login_hint: login_hint.into(),
            wall_clock: system_clock(),
        }
    }
}

// === impl OAuthSource ===

impl OAuthSource {
    /// Reads the file once. A missing or broken file is no error here: requests get an error until
    /// a login repairs it.
    ///
    /// Refreshes go through `service` and run on `tasks`, so that a shutdown can wait for one that
    /// may have spent a refresh token. Blocks while reading a few KiB.
    pub fn new<S, B>(settings: Settings, service: S, tasks: TaskTracker) -> Self
    where
        S: Service<Request<Full<Bytes>>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: Body + Send,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let endpoint = settings.endpoint.clone();
        // In a mutex only because a service need not be `Sync`.
        let service = Mutex::new(service);
        let send_refresh: RefreshFn = Box::new(move |refresh_token| {
            let service = service.lock().clone();
            let endpoint = endpoint.clone();
            Box::pin(async move { refresh(service, &endpoint, &refresh_token).await })
        });
        let inner = SourceInner {
            file: CredentialsFile::new(&settings.file),
            send_refresh,
            tasks,
            state: Mutex::new(SourceState::new(settings.early)),
            resource: watch::Sender::new(None),
            exposed: Once::new(),
            settings,
        };
        inner.reload_if_changed();
        Self(Arc::new(inner))
    }

    /// The base URL in the token's `resource_url`, if its host is allowed.
    pub fn resource_base(&self) -> Option<Uri> {
        self.0.resource.borrow().clone()
    }

    /// Receives each change of [`resource_base`](Self::resource_base).
    pub fn resource_changes(&self) -> watch::Receiver<Option<Uri>> {
        self.0.resource.subscribe()
    }
}

impl TokenSource for OAuthSource {
    /// # Panics
    ///
    /// Outside a tokio runtime.
    fn token(&self) -> TokenFuture {
        self.0.reload_if_changed();
        self.0.next_token(self.0.state())
    }

    /// # Panics
    ///
    /// Outside a tokio runtime.
    fn refresh(&self, stale: &BearerToken) -> TokenFuture {
        self.0.reload_if_changed();
        let mut state = self.0.state();
        state.reject(stale.generation());
        if state.begin_report(Instant::now()) {
            warn!(
                wait = ?renewals::WINDOW,
                hint = self.0.settings.login_hint,
                "The upstream refuses renewed tokens; its answers are passed on, and renewing waits"
            );
        }
        self.0.next_token(state)
    }

    fn accepted(&self, token: &BearerToken) {
        self.0.state().accept(token.generation());
    }
}

impl fmt::Debug for OAuthSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuthSource")
            .field("file", &self.0.file)
            .finish_non_exhaustive()
    }
}

// === impl SourceInner ===

impl SourceInner {
    /// Carries out the next action for a caller that wants a token.
    fn next_token(self: &Arc<Self>, mut state: MutexGuard<'_, SourceState>) -> TokenFuture {
        match state.next_action(self.now(), Instant::now()) {
            Action::Fail(failure) => TokenFuture::ready(Err(self.token_error(failure))),
            Action::Return(token) => TokenFuture::ready(Ok(token)),
            Action::ReturnAndRefresh(token) => {
                let _in_background = self.start_refresh(&mut state);
                TokenFuture::ready(Ok(token))
            }
            Action::Wait(pending_refresh) => self.wait_for(pending_refresh),
            Action::Reread => self.reread(),
            Action::Refresh => self.wait_for(self.start_refresh(&mut state)),
        }
    }

    fn start_refresh(self: &Arc<Self>, state: &mut SourceState) -> PendingRefresh {
        let (done, pending_refresh) = watch::channel(None);
        state.refresh_started(pending_refresh.clone());
        self.tasks
            .spawn(refresh::run(self.clone(), done).instrument(info_span!("refresh")));
        pending_refresh
    }

    fn wait_for(self: &Arc<Self>, mut pending_refresh: PendingRefresh) -> TokenFuture {
        let inner = self.clone();
        TokenFuture::wait(async move {
            let result = match pending_refresh.wait_for(Option::is_some).await {
                Ok(result) => result.clone(),
                Err(_) => None,
            };
            inner.result_after(result.unwrap_or_else(|| Err(RefreshFailure::task_died())))
        })
    }

    /// The file was half-written when it was read: reads it again until its writer is done.
    fn reread(self: &Arc<Self>) -> TokenFuture {
        let inner = self.clone();
        TokenFuture::wait(async move {
            let read = inner.file.read().await;
            let next = {
                let mut state = inner.state();
                inner.apply_read(&mut state, read);
                if state.token().is_none() {
                    return Err(inner.login_required(&state.problem()));
                }
                inner.next_token(state)
            };
            next.await
        })
    }

    /// The result for a caller that waited for a refresh which ended with `result`.
    fn result_after(&self, result: RefreshResult) -> Result<BearerToken, TokenError> {
        let state = self.state();
        let Err(failure) = result else {
            return state
                .token()
                .ok_or_else(|| self.login_required(&state.problem()));
        };
        match (state.token(), state.token_state(self.now()), &*failure) {
            (Some(token), TokenState::Valid, _) => Ok(token),
            // It is still the best token there is, and may have been rejected by mistake.
            (Some(token), TokenState::Rejected, RefreshFailure::Transient(_)) => Ok(token),
            _ => Err(self.token_error(failure)),
        }
    }

    fn token_error(&self, failure: Arc<RefreshFailure>) -> TokenError {
        match &*failure {
            RefreshFailure::LoginRequired(problem) => self.login_required(problem),
            RefreshFailure::Transient(_) => TokenError::Unavailable(Box::new(failure)),
        }
    }

    fn login_required(&self, problem: &str) -> TokenError {
        TokenError::LoginRequired(format!("{problem}; {}", self.settings.login_hint))
    }

    /// Reads the file if another program has changed it.
    fn reload_if_changed(&self) {
        let mut state = self.state();
        if state.begin_check(Instant::now()) && state.has_changed(self.file.version()) {
            self.apply_read(&mut state, self.file.read_once());
        }
    }

    fn apply_read(&self, state: &mut SourceState, read: Result<StoredCredentials, ReadError>) {
        if read.as_ref().is_ok_and(|stored| stored.is_exposed) {
            self.exposed.call_once(|| {
                warn!(
                    path = %self.file.path().display(),
                    "Others on this machine may open the credentials file; its next renewal makes it private"
                );
            });
        }
        state.apply_read(read, self.now());
        self.publish_resource(state);
    }

    /// Publishes where the current token may be used.
    fn publish_resource(&self, state: &mut SourceState) {
        let Some(resource) = state.changed_resource() else {
            return;
        };
        let base = resource.and_then(|resource_url| {
            resource::base_url(&resource_url, &self.settings.resource_hosts)
                .inspect_err(|error| warn!(%error, resource_url, "Ignoring a resource_url"))
                .ok()
        });
        self.resource.send_if_modified(|current| {
            let is_new = *current != base;
            *current = base;
            is_new
        });
    }

    fn state(&self) -> MutexGuard<'_, SourceState> {
        self.state.lock()
    }

    fn now(&self) -> SystemTime {
        (self.settings.wall_clock)()
    }
}
