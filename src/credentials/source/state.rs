//! What the source holds, and what is to be done next. No waiting, no file, no network.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use pacegate_layers::token::BearerToken;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use super::renew::{Failure, Outcome, Renewal};
use crate::credentials::store::{Credentials, ReadError, Stamp, Stored};

/// What is known about the tokens of one file.
#[derive(Default)]
pub(super) struct State {
    early: Duration,
    held: Option<Held>,
    /// How many tokens were held so far.
    generation: u64,
    /// The state of the file as last read; `None` where there was nothing to read.
    stamp: Option<Stamp>,
    looked_at: Option<Instant>,
    /// Why the last reading gave nothing.
    problem: Option<ReadError>,
    /// The `resource_url` that was last told.
    resource: Option<String>,
    renewal: Option<Renewal>,
    /// The last renewal failed, but the next may not.
    pause: Option<Pause>,
    /// The last renewal was refused, and so will be every other of the same refresh token.
    refused: Option<Refused>,
    unsaved: Option<Unsaved>,
}

struct Held {
    token: BearerToken,
    credentials: Credentials,
    renew_at: SystemTime,
    /// The upstream said 401 to it.
    rejected: bool,
}

struct Pause {
    until: Instant,
    failure: Arc<Failure>,
}

struct Refused {
    refresh_token: SecretString,
    failure: Arc<Failure>,
}

/// The held credentials are newer than the file's, which could not be written.
struct Unsaved {
    /// The refresh token that the file still holds, if there is a file.
    on_file: Option<SecretString>,
    try_at: Instant,
}

/// What a token is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing.
    Expired,
    /// It has not expired, and nobody has refused it.
    Good,
    /// The upstream refused it before its time.
    Rejected,
}

/// What to do for somebody who wants a token.
pub(super) enum Step {
    /// There is none, and trying is no use now.
    Fail(Arc<Failure>),
    /// It is at hand.
    Give(BearerToken),
    /// It is at hand, and time to renew it.
    GiveAndRenew(BearerToken),
    /// Somebody is getting one.
    Join(Renewal),
    /// The file may have been read in the middle of a write.
    ReadAgain,
    /// Get one.
    Renew,
}

// === impl State ===

impl State {
    pub(super) fn new(early: Duration) -> Self {
        Self {
            early,
            ..Self::default()
        }
    }

    /// Whether the file was not looked at for a while; if so, it is now.
    pub(super) fn is_time_to_look(&mut self, now: Instant) -> bool {
        let due = self
            .looked_at
            .is_none_or(|before| now - before >= LOOK_EVERY);
        if due {
            self.looked_at = Some(now);
        }
        due
    }

    /// Whether the file is worth reading, its state now being `stamp`.
    pub(super) fn has_changed(&self, stamp: Option<Stamp>) -> bool {
        stamp.is_none() || stamp != self.stamp
    }

    /// Takes what the file held. A file that is gone or broken takes nothing away.
    pub(super) fn take_reading(&mut self, read: Result<Stored, ReadError>, now: SystemTime) {
        match read {
            Ok(stored) if self.is_behind(Some(&stored.credentials.refresh_token)) => {
                self.saw(stored.stamp);
            }
            // What still works is not given up for what does not. The file does not count as
            // seen: once ours has expired, it is taken.
            Ok(stored)
                if stored.credentials.valid_for(now).is_zero()
                    && self.standing(now) == Standing::Good => {}
            Ok(stored) => self.follow(stored),
            Err(error) => {
                self.stamp = None;
                self.problem = Some(error);
            }
        }
    }

    /// Takes what the file held, whatever it is worth.
    pub(super) fn follow(&mut self, stored: Stored) {
        self.publish(stored.credentials, stored.stamp.modified());
        self.saved(stored.stamp);
    }

    fn saw(&mut self, stamp: Stamp) {
        self.stamp = Some(stamp);
        self.problem = None;
    }

    /// Why there is nothing to hold.
    pub(super) fn problem(&self) -> String {
        self.problem
            .as_ref()
            .map_or_else(|| "no credentials".to_owned(), ToString::to_string)
    }

    /// The held `resource_url`, if it is another one than the last time.
    pub(super) fn changed_resource(&mut self) -> Option<Option<String>> {
        let resource = self.held.as_ref()?.credentials.resource_url.clone();
        if resource == self.resource {
            return None;
        }
        self.resource.clone_from(&resource);
        Some(resource)
    }

    /// The token held, whatever it is worth.
    pub(super) fn token(&self) -> Option<BearerToken> {
        self.held.as_ref().map(|held| held.token.clone())
    }

    /// The credentials held, whatever they are worth.
    pub(super) fn credentials(&self) -> Option<&Credentials> {
        self.held.as_ref().map(|held| &held.credentials)
    }

    /// What the held token is worth.
    pub(super) fn standing(&self, now: SystemTime) -> Standing {
        self.held
            .as_ref()
            .map_or(Standing::Expired, |held| held.standing(now))
    }

    /// The upstream refused the token of this generation.
    pub(super) fn reject(&mut self, generation: u64) {
        if let Some(held) = self
            .held
            .as_mut()
            .filter(|it| it.token.generation() == generation)
        {
            held.rejected = true;
        }
    }

    /// Holds `credentials`, issued at `issued` or a little later.
    pub(super) fn publish(&mut self, credentials: Credentials, issued: SystemTime) {
        let lifetime = credentials
            .expiry()
            .duration_since(issued)
            .unwrap_or_default();
        // A token may live for less than `early`: it would be renewed as soon as it is there.
        let early = self.early.min(lifetime / SHARE_OF_LIFE);
        let renew_at = credentials.expiry().checked_sub(early).unwrap_or(issued);
        if self
            .refused
            .as_ref()
            .is_some_and(|it| !same(&it.refresh_token, &credentials.refresh_token))
        {
            self.refused = None;
        }
        if let Some(held) = &mut self.held
            && same(&held.credentials.access_token, &credentials.access_token)
        {
            held.credentials = credentials;
            held.renew_at = renew_at;
            return;
        }
        let access_token = credentials.access_token.expose_secret();
        let Ok(token) = BearerToken::new(access_token, self.generation + 1) else {
            // Never happens: the parsers of the file and of the endpoint's answer refuse it.
            return;
        };
        self.generation += 1;
        self.pause = None;
        // Whoever got a new token with the same refresh token, or with none, was not refused.
        self.refused = None;
        self.held = Some(Held {
            token,
            credentials,
            renew_at,
            rejected: false,
        });
    }

    /// What to do for somebody who wants a token at `now`, which the runtime calls `instant`.
    pub(super) fn next_step(&self, now: SystemTime, instant: Instant) -> Step {
        let Some(held) = &self.held else {
            return match &self.problem {
                Some(ReadError::Malformed { .. }) => Step::ReadAgain,
                _ => Step::Fail(Arc::new(Failure::Login(self.problem()))),
            };
        };
        let standing = held.standing(now);
        let good = standing == Standing::Good;
        let give = || held.token.clone();
        if let Some(refused) = self.refused_for(&held.credentials) {
            return if good {
                Step::Give(give())
            } else {
                Step::Fail(refused)
            };
        }
        if !self.is_due(now) && !self.is_time_to_save(instant) {
            return Step::Give(give());
        }
        // One whose task has died without a word is not waited for.
        let running = self.renewal.as_ref().filter(|it| it.has_changed().is_ok());
        let pause = self.pause.as_ref().filter(|it| instant < it.until);
        match (running, pause) {
            (Some(_), _) if good => Step::Give(give()),
            (Some(renewal), _) => Step::Join(renewal.clone()),
            (None, Some(pause)) if standing == Standing::Expired => {
                Step::Fail(pause.failure.clone())
            }
            (None, Some(_)) => Step::Give(give()),
            (None, None) if good => Step::GiveAndRenew(give()),
            (None, None) => Step::Renew,
        }
    }

    /// Whether there is no held token, or it is time to renew it.
    pub(super) fn is_due(&self, now: SystemTime) -> bool {
        self.held
            .as_ref()
            .is_none_or(|it| it.standing(now) != Standing::Good || now >= it.renew_at)
    }

    pub(super) fn renewal_started(&mut self, renewal: Renewal) {
        self.renewal = Some(renewal);
    }

    pub(super) fn renewal_ended(&mut self, outcome: &Outcome, now: Instant) {
        self.renewal = None;
        self.pause = match outcome {
            Err(failure) if failure.asks_for_a_pause() => Some(Pause {
                until: now + PAUSE,
                failure: failure.clone(),
            }),
            _ => None,
        };
    }

    /// Remembers that `refresh_token` is worth nothing.
    pub(super) fn refuse(&mut self, refresh_token: SecretString, failure: Arc<Failure>) {
        self.refused = Some(Refused {
            refresh_token,
            failure,
        });
    }

    /// Why renewing `credentials` is known to be refused.
    pub(super) fn refused_for(&self, credentials: &Credentials) -> Option<Arc<Failure>> {
        let refused = self.refused.as_ref()?;
        same(&refused.refresh_token, &credentials.refresh_token).then(|| refused.failure.clone())
    }

    /// The held credentials are on file.
    pub(super) fn saved(&mut self, stamp: Stamp) {
        self.saw(stamp);
        self.unsaved = None;
    }

    /// The held credentials could not be written over the file with the refresh token `on_file`.
    pub(super) fn not_saved(&mut self, on_file: Option<SecretString>, now: Instant) {
        self.unsaved = Some(Unsaved {
            on_file,
            try_at: now + PAUSE,
        });
    }

    /// Whether the file is only behind: it holds `refresh_token`, which we have spent.
    pub(super) fn is_behind(&self, refresh_token: Option<&SecretString>) -> bool {
        self.unsaved
            .as_ref()
            .is_some_and(|unsaved| match (&unsaved.on_file, refresh_token) {
                (Some(spent), Some(found)) => same(spent, found),
                (_, found) => found.is_none(),
            })
    }

    fn is_time_to_save(&self, now: Instant) -> bool {
        self.unsaved
            .as_ref()
            .is_some_and(|unsaved| now >= unsaved.try_at)
    }
}

/// The other programs look no more often either.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Between two failed renewals: an endpoint in trouble is not to be asked by every request.
const PAUSE: Duration = Duration::from_secs(60);

/// No token is renewed before three quarters of its life are over, however short that is.
pub(super) const SHARE_OF_LIFE: u32 = 4;

/// Compares two secrets that we hold both of: how long it takes tells nobody anything.
pub(super) fn same(one: &SecretString, other: &SecretString) -> bool {
    one.expose_secret() == other.expose_secret()
}

// === impl Held ===

impl Held {
    fn standing(&self, now: SystemTime) -> Standing {
        if self.credentials.valid_for(now).is_zero() {
            Standing::Expired
        } else if self.rejected {
            Standing::Rejected
        } else {
            Standing::Good
        }
    }
}
