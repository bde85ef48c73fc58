//! A token source that keeps the tokens of a shared credentials file and renews them.
//!
//! A valid token is given at once. Some time before it expires it is renewed in the background;
//! once it has expired, or the upstream has refused it, whoever asks waits for the renewal. All
//! who wait share one renewal, which runs in a task of its own, so nobody who leaves stops
//! it. What is held and what to do next is decided in `state`.
//!
//! The file is looked at when a token is asked for, at most every five seconds; there is no
//! watcher, because change notices do not reach bind mounts. Looking and reading block: that is
//! some tens of microseconds for a few KiB in the page cache, less than a trip through the
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
    renew::{Failure, Outcome, Renewal},
    state::{Standing, State, Step},
};
use super::{
    WallClock,
    store::{CredentialsFile, ReadError, Stored},
    system_clock,
};
use crate::{
    config,
    oauth::refresh::{Grant, RefreshError, TokenEndpoint, refresh},
};

mod renew;
mod resource;
mod state;
#[cfg(test)]
mod tests;

/// What an [`OAuthSource`] has to know.
#[derive(Clone)]
pub struct Settings {
    /// The credentials file.
    pub file: PathBuf,
    /// Where tokens are renewed.
    pub endpoint: TokenEndpoint,
    /// How long before expiry a token is renewed in the background.
    pub early: Duration,
    /// Hosts, with or without a port, whose `resource_url` is believed.
    pub resource_hosts: Vec<String>,
    /// What a person has to do to log in; completes the sentence `no credentials in PATH; …`.
    pub login_hint: String,
    /// What time it is.
    pub wall_clock: WallClock,
}

/// The tokens of one credentials file. Clones share them.
#[derive(Clone)]
pub struct OAuthSource(Arc<Shared>);

/// What the source and its renewals have in common.
struct Shared {
    settings: Settings,
    file: CredentialsFile,
    ask: Ask,
    tasks: TaskTracker,
    state: Mutex<State>,
    resource: watch::Sender<Option<Uri>>,
    /// Done once the log has said that the file is open to others.
    exposed: Once,
}

/// Sends a refresh token to the endpoint. Boxed: it happens once an hour.
type Ask = Box<dyn Fn(SecretString) -> Asking + Send + Sync>;
type Asking = Pin<Box<dyn Future<Output = Result<Grant, RefreshError>> + Send>>;

// === impl Settings ===

impl Settings {
    /// What the configuration says, with the machine's clock.
    pub fn new(
        oauth: &config::OAuth,
        refresh: &config::TokenRefresh,
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
    /// Reads the file once. That it is missing or broken is no error here: requests are told,
    /// and a login is picked up.
    ///
    /// Renewals go through `service` and run on `tasks`, so that a shutdown can wait for one
    /// that may have spent a refresh token.
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
        let ask: Ask = Box::new(move |refresh_token| {
            let service = service.lock().clone();
            let endpoint = endpoint.clone();
            Box::pin(async move { refresh(service, &endpoint, &refresh_token).await })
        });
        let shared = Shared {
            file: CredentialsFile::new(&settings.file),
            ask,
            tasks,
            state: Mutex::new(State::new(settings.early)),
            resource: watch::Sender::new(None),
            exposed: Once::new(),
            settings,
        };
        shared.look();
        Self(Arc::new(shared))
    }

    /// The base URL that came with the token, if its host is allowed to have one.
    pub fn resource_base(&self) -> Option<Uri> {
        self.0.resource.borrow().clone()
    }

    /// Follows [`resource_base`](Self::resource_base).
    pub fn resource_changes(&self) -> watch::Receiver<Option<Uri>> {
        self.0.resource.subscribe()
    }
}

impl TokenSource for OAuthSource {
    /// # Panics
    ///
    /// Outside a tokio runtime.
    fn token(&self) -> TokenFuture {
        self.0.look();
        self.0.answer(self.0.state())
    }

    /// # Panics
    ///
    /// Outside a tokio runtime.
    fn refresh(&self, stale: &BearerToken) -> TokenFuture {
        self.0.look();
        let mut state = self.0.state();
        state.reject(stale.generation());
        self.0.answer(state)
    }
}

impl fmt::Debug for OAuthSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuthSource")
            .field("file", &self.0.file)
            .finish_non_exhaustive()
    }
}

// === impl Shared ===

impl Shared {
    /// Does what the state says is next for somebody who wants a token.
    fn answer(self: &Arc<Self>, mut state: MutexGuard<'_, State>) -> TokenFuture {
        match state.next_step(self.now(), Instant::now()) {
            Step::Fail(failure) => TokenFuture::ready(Err(self.refuse(failure))),
            Step::Give(token) => TokenFuture::ready(Ok(token)),
            Step::GiveAndRenew(token) => {
                let _in_background = self.start_renewal(&mut state);
                TokenFuture::ready(Ok(token))
            }
            Step::Join(renewal) => self.wait_for(renewal),
            Step::ReadAgain => self.read_again(),
            Step::Renew => self.wait_for(self.start_renewal(&mut state)),
        }
    }

    fn start_renewal(self: &Arc<Self>, state: &mut State) -> Renewal {
        let (done, renewal) = watch::channel(None);
        state.renewal_started(renewal.clone());
        self.tasks
            .spawn(renew::run(self.clone(), done).instrument(info_span!("refresh")));
        renewal
    }

    fn wait_for(self: &Arc<Self>, mut renewal: Renewal) -> TokenFuture {
        let shared = self.clone();
        TokenFuture::wait(async move {
            let outcome = match renewal.wait_for(Option::is_some).await {
                Ok(outcome) => outcome.clone(),
                Err(_) => None,
            };
            shared.after(outcome.unwrap_or_else(|| Err(Failure::vanished())))
        })
    }

    /// The file was half-written when it was looked at: gives its writer the time to end.
    fn read_again(self: &Arc<Self>) -> TokenFuture {
        let shared = self.clone();
        TokenFuture::wait(async move {
            let read = shared.file.read().await;
            let next = {
                let mut state = shared.state();
                shared.take_reading(&mut state, read);
                if state.token().is_none() {
                    return Err(shared.login(&state.problem()));
                }
                shared.answer(state)
            };
            next.await
        })
    }

    /// What a caller gets whose renewal ended with `outcome`.
    fn after(&self, outcome: Outcome) -> Result<BearerToken, TokenError> {
        let state = self.state();
        let Err(failure) = outcome else {
            return state.token().ok_or_else(|| self.login(&state.problem()));
        };
        match (state.token(), state.standing(self.now()), &*failure) {
            (Some(token), Standing::Good, _) => Ok(token),
            // It is still the best we have, and may have been refused by mistake.
            (Some(token), Standing::Rejected, Failure::Later(_)) => Ok(token),
            _ => Err(self.refuse(failure)),
        }
    }

    fn refuse(&self, failure: Arc<Failure>) -> TokenError {
        match &*failure {
            Failure::Login(problem) => self.login(problem),
            Failure::Later(_) => TokenError::Unavailable(Box::new(failure)),
        }
    }

    fn login(&self, problem: &str) -> TokenError {
        TokenError::LoginRequired(format!("{problem}; {}", self.settings.login_hint))
    }

    /// Notices that somebody else changed the file.
    fn look(&self) {
        let mut state = self.state();
        if state.is_time_to_look(Instant::now()) && state.has_changed(self.file.stamp()) {
            self.take_reading(&mut state, self.file.read_once());
        }
    }

    fn take_reading(&self, state: &mut State, read: Result<Stored, ReadError>) {
        if read.as_ref().is_ok_and(|stored| stored.is_exposed) {
            self.exposed.call_once(|| {
                warn!(
                    path = %self.file.path().display(),
                    "Others on this machine may open the credentials file; its next renewal makes it private"
                );
            });
        }
        state.take_reading(read, self.now());
        self.follow_resource(state);
    }

    /// Tells the composer where the held token may be used.
    fn follow_resource(&self, state: &mut State) {
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

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn now(&self) -> SystemTime {
        (self.settings.wall_clock)()
    }
}
