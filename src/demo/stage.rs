//! The shipped default with a simulator for its upstream.

use std::{
    io,
    time::{Duration, SystemTime},
};

use http::{
    Uri,
    uri::{Authority, InvalidUri, PathAndQuery, Scheme},
};
use tokio::time::Instant;

use super::home::Home;
use crate::{
    config::{self, Config, Source},
    credentials::store::{Credentials, CredentialsFile, WriteError},
    simulator::{Access, Arrival, Behaviour, Limits, Options, Simulator, Window},
};

/// A simulator, and the config of a gateway in front of it.
#[derive(Debug)]
pub struct Stage {
    config: Config,
    upstream: Simulator,
    /// The instant that the upstream counts from.
    epoch: Instant,
    /// The credentials' file is in it.
    _home: Home,
}

/// A stage that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The temporary credentials.
    #[error(transparent)]
    Credentials(#[from] WriteError),
    /// The simulator's socket.
    #[error("the simulator cannot listen: {0}")]
    Listen(#[from] io::Error),
    /// A URL of the config that cannot be turned towards the simulator.
    #[error(transparent)]
    Uri(#[from] http::uri::InvalidUriParts),
    /// The simulator's own address.
    #[error(transparent)]
    Address(#[from] InvalidUri),
}

/// How long a model thinks before its first word, and between two words.
const LATENCY: Duration = Duration::from_millis(250);
const WORD_GAP: Duration = Duration::from_millis(80);

/// What the upstream admits: with anything less than the default's spacing there would be 429s.
const LIMIT: Window = Window {
    requests: 1,
    per: Duration::from_secs(1),
};

/// The shipped default, unless `listen` says otherwise, as it is for somebody whose home is `home`.
/// Nothing of this person's is read.
///
/// # Errors
///
/// For a `listen` that cannot be used.
pub fn config(home: &Home, listen: Option<String>) -> Result<Config, config::Error> {
    let env = |name: &str| (name == "HOME").then(|| home.path().display().to_string());
    let source = Source {
        // A config without a line leaves everything at its default, and no other place is searched.
        config: Some("/dev/null".into()),
        listen,
        // Enough to say what went wrong, and too little to disturb the table.
        log_level: Some("warn".into()),
        ..Source::new(&env)
    };
    Ok(config::load(&source)?.config)
}

// === impl Stage ===

impl Stage {
    /// Starts a simulator, turns every URL of `config` towards it, and logs in.
    ///
    /// # Errors
    ///
    /// If there is no port for it, or its token cannot be written down.
    pub async fn start(home: Home, mut config: Config) -> Result<Self, StageError> {
        let behaviour = Behaviour::default();
        let expiry = SystemTime::now() + behaviour.token_lifetime;
        let upstream = Simulator::start(Options {
            access: Access::Issued,
            latency: LATENCY,
            chunk_gap: WORD_GAP,
            limits: Limits {
                windows: vec![LIMIT],
                concurrency: None,
            },
            oauth: behaviour,
            ..Options::default()
        })
        .await?;
        // The simulator's clock starts after its socket is bound, some microseconds ago.
        let epoch = Instant::now();

        let there: Authority = upstream.address().to_string().parse()?;
        for each in &mut config.upstreams {
            each.base_url = moved(&each.base_url, &there)?;
            each.base_url_written = true;
            if let config::Credentials::OAuth(oauth) = &mut each.credentials {
                oauth.token_url = moved(&oauth.token_url, &there)?;
                oauth.device_code_url = moved(&oauth.device_code_url, &there)?;
                CredentialsFile::new(&oauth.file).write(&login(&upstream, expiry))?;
            }
        }
        Ok(Self {
            config,
            upstream,
            epoch,
            _home: home,
        })
    }

    /// What a gateway needs to stand in front of the simulator.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where the simulator is.
    pub fn origin(&self) -> String {
        self.upstream.origin()
    }

    /// The model to ask for: the first that the config lists.
    pub fn model(&self) -> &str {
        let mut models = self.config.upstreams.iter().flat_map(|each| &each.models);
        models.next().map_or("demo", |model| &model.id)
    }

    /// What the upstream saw, each with its instant on this process's clock.
    pub(super) fn arrivals(&self) -> Vec<(Instant, Arrival)> {
        let mut arrivals = Vec::new();
        for arrival in self.upstream.arrivals() {
            arrivals.push((self.epoch + Duration::from_micros(arrival.at_us), arrival));
        }
        arrivals
    }
}

fn login(upstream: &Simulator, expiry: SystemTime) -> Credentials {
    let grant = upstream.issue();
    let since_1970 = expiry
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Credentials {
        access_token: grant.access_token.into(),
        token_type: "Bearer".into(),
        refresh_token: grant.refresh_token.into(),
        resource_url: None,
        expiry_date: u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX),
    }
}

/// The same path at another place, in plain HTTP.
fn moved(uri: &Uri, there: &Authority) -> Result<Uri, http::uri::InvalidUriParts> {
    let mut parts = uri.clone().into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(there.clone());
    parts
        .path_and_query
        .get_or_insert(PathAndQuery::from_static("/"));
    Uri::from_parts(parts)
}
