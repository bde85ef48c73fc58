//! The configuration, complete and checked: after loading, nothing is missing or contradictory.
//!
//! [`load`] finds the file, merges built-in defaults, presets and the file, and records where every
//! value came from. It reads files, and the environment through its [`ConfigSource`]; the result is
//! data. Nothing here uses the network, builds a layer or names a provider.

use std::{fmt, net::SocketAddr, num::NonZeroUsize, path::PathBuf, time::Duration};

use http::{HeaderName, HeaderValue, Uri};
use secrecy::{ExposeSecret, SecretString};

mod credentials;
mod cursor;
mod data;
mod dialect;
mod error;
mod expand;
mod header_align;
mod limits;
mod load;
mod log;
mod loopback;
mod notice;
mod pipeline;
mod platform;
mod provenance;
mod response_headers;
mod secret;
mod server;
mod source;
mod throttle;
mod tree;
mod units;
mod upstream;

pub use data::{opencode_sample, presets, throttle_profiles};
pub use dialect::{Dialect, DialectRule, Pace, ResetsAt, RuleVerdict};
pub use error::Error;
#[cfg(feature = "tools")]
pub(crate) use error::suggestion;
pub use limits::Limits;
pub use load::{Loaded, Sample, annotated, load, sample, without_secrets};
pub use log::{BadFilter, Log, LogFormat};
pub use loopback::is_loopback_host;
pub use notice::Notice;
pub use platform::Platform;
pub use provenance::{AnnotatedConfig, Provenance};
pub use source::ConfigSource;
pub(crate) use units::show as show_duration;

/// The whole configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The address that clients connect to.
    pub listen: Listen,
    /// The certificate, if clients connect over TLS.
    pub listen_tls: Option<ListenTls>,
    /// The API keys of clients; empty only on loopback and Unix sockets.
    pub client_keys: Vec<SecretString>,
    /// `Host` names accepted beyond the loopback ones.
    pub allowed_hosts: Vec<String>,
    /// `Origin` values accepted; none by default.
    pub allowed_origins: Vec<String>,
    /// The largest request body, in bytes.
    pub max_body: usize,
    /// Limits on what clients may use.
    pub limits: Limits,
    /// How long responses in progress may take once the process has been told to stop.
    pub drain_timeout: Duration,
    /// Threads that serve requests.
    pub workers: NonZeroUsize,
    /// The directory of counters that outlive the process; `None` if the user named none and the
    /// environment has no home directory.
    pub state_dir: Option<PathBuf>,
    /// What to log, and in which format.
    pub log: Log,
    /// At least one, names unique.
    pub upstreams: Vec<Upstream>,
}

/// The address that clients connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// An IP address and port; port 0 is any free one.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// The TLS certificate of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenTls {
    /// A PEM file with the certificate and its chain.
    pub cert_file: PathBuf,
    /// A PEM file with its private key.
    pub key_file: PathBuf,
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// One upstream and the pipeline in front of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// Its name in `/u/NAME/v1/…`, logs and metrics.
    pub name: String,
    /// The preset that its defaults came from.
    pub preset: Option<String>,
    /// Scheme, authority and the path that replaces `/v1` of a request; no trailing slash.
    pub base_url: Uri,
    /// Whether the user wrote `base-url`; if not, a `resource_url` of the credentials may replace
    /// it.
    pub base_url_written: bool,
    /// What the upstream's error responses mean.
    pub dialect: Dialect,
    /// The models that it serves.
    pub models: Vec<Model>,
    /// The layers that run, in the order of [`LayerName::ALL`].
    pub pipeline: Vec<LayerName>,
    /// The HTTP version to speak.
    pub http: HttpVersion,
    /// The largest response headers, in bytes.
    pub max_head: usize,
    /// The longest wait for a connection: name resolution, TCP, proxy and TLS together.
    pub connect_timeout: Duration,
    /// The longest wait for the response headers once the request is being sent.
    pub head_timeout: Duration,
    /// The longest silence between two chunks of a response body.
    pub idle_timeout: Duration,
    /// The trusted certificate authorities.
    pub tls: Tls,
    /// The response headers that are passed to the client.
    pub response_headers: ResponseHeaders,
    /// The source of the token.
    pub credentials: Credentials,
    /// Settings of `header-align`.
    pub header_align: HeaderAlignSettings,
    /// Settings of `retry-on-429`.
    pub retry_on_429: RetryOn429Settings,
    /// Settings of `token-refresh`.
    pub token_refresh: TokenRefreshSettings,
    /// Settings of `jitter-throttle`.
    pub jitter_throttle: JitterThrottleSettings,
}

/// A model that an upstream serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// Its id, as requests name it.
    pub id: String,
    /// Tokens of context, where known.
    pub context: Option<u64>,
    /// Tokens of output, where known.
    pub output: Option<u64>,
    /// Kinds of input (`text`, `image`).
    pub input: Vec<String>,
}

/// The layers a pipeline may name, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LayerName {
    /// `retry-on-429`
    RetryOn429,
    /// `token-refresh`
    TokenRefresh,
    /// `jitter-throttle`
    JitterThrottle,
    /// `header-align`
    HeaderAlign,
    /// `bearer-auth`
    BearerAuth,
}

/// The HTTP version to speak to an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    /// Negotiated by ALPN; HTTP/1.1 without TLS.
    Auto,
    /// HTTP/1.1 only.
    H1,
    /// HTTP/2 only; with prior knowledge where there is no TLS.
    H2,
}

/// The certificate authorities trusted for an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The set of root certificates.
    pub roots: Roots,
    /// A PEM file with more roots.
    pub ca_file: Option<PathBuf>,
}

/// A set of root certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Roots {
    /// Mozilla's, compiled in.
    Bundled,
    /// The operating system's.
    System,
}

/// The response headers that are passed to the client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResponseHeaders {
    /// Header names.
    pub names: Vec<HeaderName>,
    /// Prefixes of header names, in lower case.
    pub prefixes: Vec<String>,
}

/// The source of an upstream's token.
#[derive(Clone, Debug, PartialEq)]
pub enum Credentials {
    /// No token at all.
    None,
    /// An API key issued by the provider.
    ApiKey(ApiKey),
    /// A credentials file that is refreshed at a token endpoint.
    OAuth(Box<OAuth>),
}

/// An API key and its reference, which was resolved when the config was loaded.
#[derive(Clone, Debug)]
pub struct ApiKey {
    /// The key at the time when the config was loaded.
    pub key: SecretString,
    /// Why the reference leads to no key; `None` if the config was loaded with its secrets.
    pub problem: Option<String>,
    /// The file that the key was read from, where it may be replaced while the program runs.
    pub file: Option<PathBuf>,
    /// The reference as written, for messages: `env DASHSCOPE_API_KEY` or `file PATH`.
    pub reference: String,
}

/// Compares references, not values: file keys are read again at run time.
impl PartialEq for ApiKey {
    fn eq(&self, other: &Self) -> bool {
        let same_key = || self.key.expose_secret() == other.key.expose_secret();
        self.reference == other.reference
            && self.file == other.file
            && (self.file.is_some() || same_key())
    }
}

/// An OAuth client that logs in by device authorization, and its credentials file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OAuth {
    /// The credentials file, with `~` and variables expanded.
    pub file: PathBuf,
    /// RFC 8628 device authorization endpoint.
    pub device_code_url: Uri,
    /// RFC 6749 token endpoint.
    pub token_url: Uri,
    /// The client's public id.
    pub client_id: String,
    /// Space-separated scopes.
    pub scope: String,
    /// Hosts whose `resource_url` may replace the preset's base URL.
    pub resource_hosts: Vec<String>,
    /// Headers of requests to the two endpoints, in order: values, and reserved positions of
    /// headers that pacegate sets itself. If empty, pacegate's own headers.
    pub headers: Vec<HeaderField>,
}

/// Settings of the `header-align` layer: the profile's headers, in order, with the user's `set` and
/// `remove` applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderAlignSettings {
    /// The profile's name, for messages.
    pub profile: String,
    /// Client headers that are passed on although the profile does not name them.
    pub pass: Vec<HeaderName>,
    /// The headers to send, in this order.
    pub fields: Vec<HeaderField>,
}

/// One header of a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderField {
    /// Its name.
    pub name: HeaderName,
    /// The source of its value.
    pub rule: HeaderRule,
}

/// The source of a header's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderRule {
    /// This value, whatever the client sent.
    Set(HeaderValue),
    /// This value if the client sent none.
    SetIfAbsent(HeaderValue),
    /// This list of codings if the client offered all of them, else the client's own list.
    Narrow(HeaderValue),
    /// A reserved position: a later layer or the HTTP client sets the value.
    Place,
}

/// Settings of the `retry-on-429` layer.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryOn429Settings {
    /// Retries after the first attempt.
    pub max_retries: u32,
    /// The longest time that a request waits without response headers.
    pub max_hold: Duration,
    /// The wait when the upstream names none.
    pub default_wait: Duration,
    /// The share of attempts that may be retries, 0.0 to 1.0.
    pub budget: f64,
}

/// Settings of the `token-refresh` layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRefreshSettings {
    /// How long before expiry a token is refreshed in the background.
    pub early: Duration,
}

/// Settings of the `jitter-throttle` layer.
#[derive(Clone, Debug, PartialEq)]
pub struct JitterThrottleSettings {
    /// The profile that its defaults came from: `reference` or `quota`.
    pub profile: String,
    /// The least time between two dispatches, jitter not included.
    pub min_interval: Duration,
    /// Added to each gap, drawn at random from this range; the first is not after the second.
    pub jitter: (Duration, Duration),
    /// Another jitter for busy periods.
    pub busy: Option<BusyJitter>,
    /// Whether a lone request waits for its jitter, too, as the `reference` profile does.
    pub idle_jitter: bool,
    /// A number of requests per time.
    pub quotas: Vec<Quota>,
    /// The most requests in flight, until their response bodies end; `None` is no limit.
    pub concurrency: Option<NonZeroUsize>,
    /// The most queued requests.
    pub max_queue: usize,
    /// The longest estimated wait; a request whose estimate is longer is refused.
    pub max_wait: Duration,
    /// The order in which queued requests leave.
    pub order: QueueOrder,
}

/// When a period is busy, and the jitter then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BusyJitter {
    /// From this many dispatches …
    pub from: NonZeroUsize,
    /// … within this time.
    pub within: Duration,
    /// The first is not after the second.
    pub jitter: (Duration, Duration),
}

/// A number of requests per time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    /// At most this many.
    pub requests: NonZeroUsize,
    /// In this time.
    pub per: Per,
}

/// In words: `1000 per day (Asia/Shanghai)`.
impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} per ", self.requests)?;
        match &self.per {
            Per::Window(per) => f.write_str(&show_duration(*per)),
            Per::Day { zone } => write!(f, "day ({zone})"),
            Per::Week { zone } => write!(f, "week ({zone})"),
            Per::Month { zone, anchor_day } => write!(f, "month from day {anchor_day} ({zone})"),
        }
    }
}

/// The time over which a quota is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Per {
    /// Any window of this length.
    Window(Duration),
    /// A civil day in a named time zone.
    Day {
        /// An IANA name, known to the bundled database.
        zone: String,
    },
    /// A civil week from Monday in a named time zone.
    Week {
        /// An IANA name, known to the bundled database.
        zone: String,
    },
    /// A civil month in a named time zone.
    Month {
        /// An IANA name, known to the bundled database.
        zone: String,
        /// The day of the month it begins on, 1 to 28.
        anchor_day: u8,
    },
}

/// The order in which queued requests leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueOrder {
    /// Sessions take turns.
    Fair,
    /// First come, first served.
    Fifo,
}
