//! The default config with a simulator as its upstream.

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
    config::{self, Config, ConfigSource},
    credentials::store::{CredentialsFile, OAuthCredentials, WriteError},
    simulator::{Access, Arrival, Behaviour, ChatLimits, Options, Simulator, WindowLimit},
};

/// A simulator, and the config of a gateway in front of it.
#[derive(Debug)]
pub struct DemoSetup {
    config: Config,
    upstream: Simulator,
    /// The instant from which the simulator counts its times.
    epoch: Instant,
    /// Contains the credentials file.
    _home: Home,
}

/// The demo cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The temporary credentials cannot be written.
    #[error(transparent)]
    OAuthCredentials(#[from] WriteError),
    /// The simulator cannot listen.
    #[error("the simulator cannot listen: {0}")]
    Listen(#[from] io::Error),
    /// A URL of the config cannot point to the simulator.
    #[error(transparent)]
    Uri(#[from] http::uri::InvalidUriParts),
    /// The address of the simulator is not a valid authority.
    #[error(transparent)]
    Address(#[from] InvalidUri),
}

/// Delay before the first word of a response, and between two words.
const LATENCY: Duration = Duration::from_millis(250);
const WORD_GAP: Duration = Duration::from_millis(80);

/// The limit of the upstream, just met by the default pacing: any closer requests would get a 429.
const LIMIT: WindowLimit = WindowLimit {
    requests: 1,
    per: Duration::from_secs(1),
};

/// The default config for a user whose home is `home`, with `listen` if given. No config file of the
/// real user is read.
///
/// # Errors
///
/// If `listen` is not valid.
pub fn config(home: &Home, listen: Option<String>) -> Result<Config, config::Error> {
    let env = |name: &str| (name == "HOME").then(|| home.path().display().to_string());
    let source = ConfigSource {
        // An empty config file: all defaults, and no other file is searched for.
        config: Some("/dev/null".into()),
        listen,
        // Errors are shown, and the table is not disturbed.
        log_level: Some("warn".into()),
        ..ConfigSource::new(&env)
    };
    Ok(config::load(&source)?.config)
}

// === impl DemoSetup ===

impl DemoSetup {
    /// Starts a simulator, points every URL of `config` to it, and logs in.
    ///
    /// # Errors
    ///
    /// If the simulator cannot listen, or its token cannot be saved.
    pub async fn start(home: Home, mut config: Config) -> Result<Self, SetupError> {
        let behaviour = Behaviour::default();
        let expiry = SystemTime::now() + behaviour.token_lifetime;
        let upstream = Simulator::start(Options {
            access: Access::Issued,
            latency: LATENCY,
            chunk_gap: WORD_GAP,
            limits: ChatLimits {
                windows: vec![LIMIT],
                concurrency: None,
            },
            oauth: behaviour,
            ..Options::default()
        })
        .await?;
        // The simulator's clock started some microseconds ago, after its socket was bound.
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

    /// The config of a gateway in front of the simulator.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Origin of the simulator.
    pub fn origin(&self) -> String {
        self.upstream.origin()
    }

    /// The model to request: the first of the config.
    pub fn model(&self) -> &str {
        let mut models = self.config.upstreams.iter().flat_map(|each| &each.models);
        models.next().map_or("demo", |model| &model.id)
    }

    /// The upstream's arrivals, each with its instant on this process's clock.
    pub(super) fn arrivals(&self) -> Vec<(Instant, Arrival)> {
        let mut arrivals = Vec::new();
        for arrival in self.upstream.arrivals() {
            arrivals.push((self.epoch + Duration::from_micros(arrival.at_us), arrival));
        }
        arrivals
    }
}

fn login(upstream: &Simulator, expiry: SystemTime) -> OAuthCredentials {
    let grant = upstream.issue();
    let since_1970 = expiry
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    OAuthCredentials {
        access_token: grant.access_token.into(),
        token_type: "Bearer".into(),
        refresh_token: grant.refresh_token.into(),
        resource_url: None,
        expiry_date: u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX),
    }
}

/// The same path at another authority, over plain HTTP.
fn moved(uri: &Uri, there: &Authority) -> Result<Uri, http::uri::InvalidUriParts> {
    let mut parts = uri.clone().into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(there.clone());
    parts
        .path_and_query
        .get_or_insert(PathAndQuery::from_static("/"));
    Uri::from_parts(parts)
}
