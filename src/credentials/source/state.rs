//! The state of a source, and what to do next. No waiting, no file, no network.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use pacegate_layers::token::BearerToken;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use super::{
    refresh::{PendingRefresh, RefreshFailure, RefreshResult},
    renewals::Renewals,
};
use crate::credentials::{
    file_version::{CheckTimer, FileVersion},
    store::{OAuthCredentials, ReadError, StoredCredentials},
};

/// The state of one source.
#[derive(Default)]
pub(super) struct SourceState {
    early: Duration,
    current: Option<CurrentToken>,
    /// The number of tokens so far.
    generation: u64,
    /// The version of the file last read; `None` if there was nothing to read.
    version: Option<FileVersion>,
    checks: CheckTimer,
    /// Why the last read found no credentials.
    problem: Option<ReadError>,
    /// The `resource_url` published last.
    resource: Option<String>,
    pending_refresh: Option<PendingRefresh>,
    /// The last refresh failed, but the next may not.
    pause: Option<Pause>,
    /// The last refresh was refused, as any other one with that refresh token will be.
    refused: Option<RefusedRefresh>,
    /// The latest calls to the token endpoint.
    renewals: Renewals,
    unsaved: Option<Unsaved>,
}

struct CurrentToken {
    token: BearerToken,
    credentials: OAuthCredentials,
    refresh_at: SystemTime,
    /// The upstream has answered it with 401.
    rejected: bool,
}

struct Pause {
    until: Instant,
    failure: Arc<RefreshFailure>,
}

struct RefusedRefresh {
    refresh_token: SecretString,
    failure: Arc<RefreshFailure>,
}

/// The current credentials are newer than the file, which could not be written.
struct Unsaved {
    /// The refresh token that the file still holds, if there is a file.
    file_refresh_token: Option<SecretString>,
    try_at: Instant,
}

/// Whether a token can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenState {
    /// It has expired.
    Expired,
    /// It has neither expired nor been rejected.
    Valid,
    /// The upstream has rejected it before it expired.
    Rejected,
}

/// What to do for a caller that wants a token.
pub(super) enum Action {
    /// Fail: there is no token, and a refresh is no use now.
    Fail(Arc<RefreshFailure>),
    /// Return this token.
    Return(BearerToken),
    /// Return this token, and refresh it in the background.
    ReturnAndRefresh(BearerToken),
    /// Wait for the running refresh.
    Wait(PendingRefresh),
    /// Read the file again, which may have been half-written.
    Reread,
    /// Start a refresh and wait for it.
    Refresh,
}

// === impl SourceState ===

impl SourceState {
    pub(super) fn new(early: Duration) -> Self {
        Self {
            early,
            ..Self::default()
        }
    }

    /// Returns whether a check of the file is due; if so, it counts as done.
    pub(super) fn begin_check(&mut self, now: Instant) -> bool {
        self.checks.begin_check(now)
    }

    /// Whether the file has to be read, its version now being `version`.
    pub(super) fn has_changed(&self, version: Option<FileVersion>) -> bool {
        version.is_none() || version != self.version
    }

    /// Applies what was read. A file that is gone or broken changes no token.
    pub(super) fn apply_read(
        &mut self,
        read: Result<StoredCredentials, ReadError>,
        now: SystemTime,
    ) {
        match read {
            Ok(stored) if self.file_is_behind(Some(&stored.credentials.refresh_token)) => {
                self.note_version(stored.version);
            }
            // A valid token is not replaced by an expired one. The file's version is not noted, so
            // it is read again once the current token has expired.
            Ok(stored)
                if stored.credentials.valid_for(now).is_zero()
                    && self.token_state(now) == TokenState::Valid => {}
            Ok(stored) => self.adopt(stored),
            Err(error) => {
                self.version = None;
                self.problem = Some(error);
            }
        }
    }

    /// Makes the file's credentials current, whatever their state.
    pub(super) fn adopt(&mut self, stored: StoredCredentials) {
        self.publish(stored.credentials, stored.version.modified());
        self.mark_saved(stored.version);
    }

    fn note_version(&mut self, version: FileVersion) {
        self.version = Some(version);
        self.problem = None;
    }

    /// Why there are no credentials.
    pub(super) fn problem(&self) -> String {
        self.problem
            .as_ref()
            .map_or_else(|| "no credentials".to_owned(), ToString::to_string)
    }

    /// The current `resource_url`, if it differs from the one published last.
    pub(super) fn changed_resource(&mut self) -> Option<Option<String>> {
        let resource = self.current.as_ref()?.credentials.resource_url.clone();
        if resource == self.resource {
            return None;
        }
        self.resource.clone_from(&resource);
        Some(resource)
    }

    /// The current token, whatever its state.
    pub(super) fn token(&self) -> Option<BearerToken> {
        self.current.as_ref().map(|current| current.token.clone())
    }

    /// The current credentials, whatever their state.
    pub(super) fn credentials(&self) -> Option<&OAuthCredentials> {
        self.current.as_ref().map(|current| &current.credentials)
    }

    /// The state of the current token.
    pub(super) fn token_state(&self, now: SystemTime) -> TokenState {
        self.current
            .as_ref()
            .map_or(TokenState::Expired, |current| current.token_state(now))
    }

    /// Notes that the upstream accepts the token of this generation.
    pub(super) fn accept(&mut self, generation: u64) {
        if self
            .token()
            .is_some_and(|token| token.generation() == generation)
        {
            self.renewals.accepted();
        }
    }

    /// Notes that the upstream has rejected the token of this generation.
    pub(super) fn reject(&mut self, generation: u64) {
        if let Some(current) = self
            .current
            .as_mut()
            .filter(|it| it.token.generation() == generation)
        {
            current.rejected = true;
        }
    }

    /// Makes `credentials` current, which were issued at `issued` or a little later.
    pub(super) fn publish(&mut self, credentials: OAuthCredentials, issued: SystemTime) {
        let lifetime = credentials
            .expiry()
            .duration_since(issued)
            .unwrap_or_default();
        // A token may live for less than `early`: it would be refreshed as soon as it is issued.
        let early = self.early.min(lifetime / LIFETIME_DIVISOR);
        let refresh_at = credentials.expiry().checked_sub(early).unwrap_or(issued);
        if self
            .refused
            .as_ref()
            .is_some_and(|it| !same_secret(&it.refresh_token, &credentials.refresh_token))
        {
            self.refused = None;
        }
        if let Some(current) = &mut self.current
            && same_secret(&current.credentials.access_token, &credentials.access_token)
        {
            current.credentials = credentials;
            current.refresh_at = refresh_at;
            return;
        }
        let access_token = credentials.access_token.expose_secret();
        let Ok(token) = BearerToken::new(access_token, self.generation + 1) else {
            // Never happens: the parsers of the file and of the endpoint's response refuse such a
            // token.
            return;
        };
        self.generation += 1;
        self.pause = None;
        // A new token with the same refresh token, or with none, means that it was not refused.
        self.refused = None;
        self.current = Some(CurrentToken {
            token,
            credentials,
            refresh_at,
            rejected: false,
        });
    }

    /// The next action for a caller that wants a token at `now`, which the runtime calls `instant`.
    pub(super) fn next_action(&self, now: SystemTime, instant: Instant) -> Action {
        let Some(current) = &self.current else {
            return match &self.problem {
                Some(ReadError::Malformed { .. }) => Action::Reread,
                _ => Action::Fail(Arc::new(RefreshFailure::LoginRequired(self.problem()))),
            };
        };
        let token_state = current.token_state(now);
        let token = || current.token.clone();
        if let Some(refused) = self.refused_for(&current.credentials) {
            return if token_state == TokenState::Valid {
                Action::Return(token())
            } else {
                Action::Fail(refused)
            };
        }
        if !self.is_due(now, instant) && !self.is_time_to_save(instant) {
            return Action::Return(token());
        }
        let usable = token_state == TokenState::Valid || self.keeps_rejected(instant);
        // A refresh whose task has died is not waited for.
        let running = self
            .pending_refresh
            .as_ref()
            .filter(|it| it.has_changed().is_ok());
        let pause = self.pause.as_ref().filter(|it| instant < it.until);
        match (running, pause) {
            (Some(_), _) if usable => Action::Return(token()),
            (Some(pending_refresh), _) => Action::Wait(pending_refresh.clone()),
            (None, Some(pause)) if token_state == TokenState::Expired && !usable => {
                Action::Fail(pause.failure.clone())
            }
            (None, Some(_)) => Action::Return(token()),
            (None, None) if usable => Action::ReturnAndRefresh(token()),
            (None, None) => Action::Refresh,
        }
    }

    /// Whether there is no current token, or it is time to refresh it at `now`, which the runtime
    /// calls `instant`.
    pub(super) fn is_due(&self, now: SystemTime, instant: Instant) -> bool {
        let is_due = self
            .current
            .as_ref()
            .is_none_or(|it| it.token_state(now) != TokenState::Valid || now >= it.refresh_at);
        is_due && !self.keeps_rejected(instant)
    }

    /// Whether the current token is kept for now although the upstream has rejected it: the tokens
    /// before it were rejected as well. The upstream's responses then say why.
    pub(super) fn keeps_rejected(&self, now: Instant) -> bool {
        self.is_rejected() && self.renewals.are_exhausted(now)
    }

    /// Whether [`keeps_rejected`](Self::keeps_rejected) has become true and is yet to be logged.
    pub(super) fn begin_report(&mut self, now: Instant) -> bool {
        self.keeps_rejected(now) && self.renewals.begin_report()
    }

    /// Counts a call to the token endpoint that begins at `now`.
    pub(super) fn count_renewal(&mut self, now: Instant) {
        // The upstream took the token that is replaced now, so the calls before it ended well.
        // Otherwise those for short-lived tokens would add up.
        if !self.is_rejected() {
            self.renewals = Renewals::default();
        }
        self.renewals.count(now);
    }

    fn is_rejected(&self) -> bool {
        self.current.as_ref().is_some_and(|it| it.rejected)
    }

    pub(super) fn refresh_started(&mut self, pending_refresh: PendingRefresh) {
        self.pending_refresh = Some(pending_refresh);
    }

    pub(super) fn refresh_ended(&mut self, result: &RefreshResult, now: Instant) {
        self.pending_refresh = None;
        self.pause = match result {
            Err(failure) if failure.needs_pause() => Some(Pause {
                until: now + PAUSE,
                failure: failure.clone(),
            }),
            _ => None,
        };
    }

    /// Remembers that the endpoint has refused `refresh_token`.
    pub(super) fn remember_refusal(
        &mut self,
        refresh_token: SecretString,
        failure: Arc<RefreshFailure>,
    ) {
        self.refused = Some(RefusedRefresh {
            refresh_token,
            failure,
        });
    }

    /// The failure to return if refreshing `credentials` is known to be refused.
    pub(super) fn refused_for(
        &self,
        credentials: &OAuthCredentials,
    ) -> Option<Arc<RefreshFailure>> {
        let refused = self.refused.as_ref()?;
        same_secret(&refused.refresh_token, &credentials.refresh_token)
            .then(|| refused.failure.clone())
    }

    /// Notes that the file holds the current credentials.
    pub(super) fn mark_saved(&mut self, version: FileVersion) {
        self.note_version(version);
        self.unsaved = None;
    }

    /// Notes that the current credentials could not be written over the file with the refresh token
    /// `file_refresh_token`.
    pub(super) fn mark_unsaved(&mut self, file_refresh_token: Option<SecretString>, now: Instant) {
        self.unsaved = Some(Unsaved {
            file_refresh_token,
            try_at: now + PAUSE,
        });
    }

    /// Whether the file lags behind: `refresh_token` in it has been spent.
    pub(super) fn file_is_behind(&self, refresh_token: Option<&SecretString>) -> bool {
        self.unsaved.as_ref().is_some_and(|unsaved| {
            match (&unsaved.file_refresh_token, refresh_token) {
                (Some(spent), Some(found)) => same_secret(spent, found),
                (_, found) => found.is_none(),
            }
        })
    }

    fn is_time_to_save(&self, now: Instant) -> bool {
        self.unsaved
            .as_ref()
            .is_some_and(|unsaved| now >= unsaved.try_at)
    }
}

/// The pause after a failed refresh: requests must not flood an endpoint in trouble.
const PAUSE: Duration = Duration::from_secs(60);

/// No token is refreshed before three quarters of its life are over, however short that is.
pub(super) const LIFETIME_DIVISOR: u32 = 4;

/// Compares two secrets that this process holds both of: the timing tells nobody anything.
pub(super) fn same_secret(one: &SecretString, other: &SecretString) -> bool {
    one.expose_secret() == other.expose_secret()
}

// === impl CurrentToken ===

impl CurrentToken {
    fn token_state(&self, now: SystemTime) -> TokenState {
        if self.credentials.valid_for(now).is_zero() {
            TokenState::Expired
        } else if self.rejected {
            TokenState::Rejected
        } else {
            TokenState::Valid
        }
    }
}
