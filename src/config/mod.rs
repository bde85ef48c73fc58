//! The configuration, complete and checked: after loading nothing can be missing or contradictory.
//!
//! [`load`] finds the file, merges built-in defaults, presets and the file, and remembers where
//! every value came from. Everything here is data: no network, no layer, no provider's name.

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
mod notice;
mod order;
mod origin;
mod platform;
mod response_headers;
mod secret;
mod server;
mod source;
mod throttle;
mod tree;
mod units;
mod upstream;

pub use data::{opencode_sample, presets, throttle_profiles};
pub use dialect::{Dialect, DialectRule, Pace, Until, Verdict};
pub use error::Error;
#[cfg(feature = "tools")]
pub(crate) use error::suggestion;
pub use limits::Limits;
pub use load::{Loaded, Sample, load, origins, sample, without_secrets};
pub use log::{BadFilter, Log, LogFormat};
pub use notice::Notice;
pub use origin::{Origin, Origins};
pub use platform::Platform;
pub use source::Source;
pub(crate) use units::show as show_duration;

/// Everything pacegate is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients connect.
    pub listen: Listen,
    /// With which certificate, if clients connect over TLS.
    pub listen_tls: Option<ListenTls>,
    /// What clients must send as their API key; empty only on loopback and Unix sockets.
    pub client_keys: Vec<SecretString>,
    /// `Host` names accepted beyond the loopback ones.
    pub allowed_hosts: Vec<String>,
    /// `Origin`s accepted; none by default.
    pub allowed_origins: Vec<String>,
    /// The largest request body, in bytes.
    pub max_body: usize,
    /// What a client may take up.
    pub limits: Limits,
    /// How long answers in progress may take once the process was told to end.
    pub drain_timeout: Duration,
    /// Threads that serve requests.
    pub workers: NonZeroUsize,
    /// Where counts that outlive the process are kept; `None` where the person named no place and
    /// the environment has no home to put it in.
    pub state_dir: Option<PathBuf>,
    /// What to log, and how.
    pub log: Log,
    /// At least one, names unique.
    pub upstreams: Vec<Upstream>,
}

/// Where clients connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// An IP address and port; port 0 is any free one.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// The certificate that clients get to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenTls {
    /// A PEM file with the certificate, and those that lead from it to a root.
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
    /// Scheme, authority and the path that `/v1` of a request is replaced by; no trailing slash.
    pub base_url: Uri,
    /// Whether the person wrote `base-url`; if not, a `resource_url` of the credentials may
    /// replace it.
    pub base_url_written: bool,
    /// How this upstream says "slow down" and "used up".
    pub dialect: Dialect,
    /// The models it serves.
    pub models: Vec<Model>,
    /// The layers that run, in the order of [`LayerName::ALL`].
    pub pipeline: Vec<LayerName>,
    /// Which HTTP version to speak.
    pub http: HttpVersion,
    /// The largest response head, in bytes.
    pub max_head: usize,
    /// The longest wait for a connection: name resolution, TCP, proxy and TLS together.
    pub connect_timeout: Duration,
    /// The longest wait for a response head once the request is on its way.
    pub head_timeout: Duration,
    /// The longest silence between two chunks of a response body.
    pub idle_timeout: Duration,
    /// Whom to trust.
    pub tls: Tls,
    /// What of an answer's header goes to the client.
    pub response_headers: ResponseHeaders,
    /// Where the token comes from.
    pub credentials: Credentials,
    /// Settings of `header-align`.
    pub header_align: HeaderAlign,
    /// Settings of `retry-on-429`.
    pub retry_on_429: RetryOn429,
    /// Settings of `token-refresh`.
    pub token_refresh: TokenRefresh,
    /// Settings of `jitter-throttle`.
    pub jitter_throttle: JitterThrottle,
}

/// A model an upstream serves.
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

/// Which HTTP version to speak to an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    /// What ALPN agrees on; HTTP/1.1 without TLS.
    Auto,
    /// HTTP/1.1 only.
    H1,
    /// HTTP/2 only; with prior knowledge where there is no TLS.
    H2,
}

/// Whom to trust as an upstream.
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

/// Fields of answers that go through to the client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResponseHeaders {
    /// By their names.
    pub names: Vec<HeaderName>,
    /// By how their names begin, in lower case.
    pub prefixes: Vec<String>,
}

/// Where an upstream's token comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Credentials {
    /// No token at all.
    None,
    /// A key that somebody else issues.
    ApiKey(ApiKey),
    /// A credentials file that is refreshed at a token endpoint.
    OAuth(Box<OAuth>),
}

/// Where an API key is found. The reference was resolved when the config was loaded.
#[derive(Clone, Debug)]
pub struct ApiKey {
    /// The key, as it was when the config was loaded.
    pub key: SecretString,
    /// Why the reference leads to no key; never if the config was loaded with its secrets.
    pub problem: Option<String>,
    /// The file it was read from, where it may be replaced while the program runs.
    pub file: Option<PathBuf>,
    /// The reference as written, for messages: `env DASHSCOPE_API_KEY` or `file PATH`.
    pub reference: String,
}

/// Equal if they are found at the same place: whoever uses the key looks into the file again by
/// itself.
impl PartialEq for ApiKey {
    fn eq(&self, other: &Self) -> bool {
        let same_key = || self.key.expose_secret() == other.key.expose_secret();
        self.reference == other.reference
            && self.file == other.file
            && (self.file.is_some() || same_key())
    }
}

/// A device-grant client and its credentials file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OAuth {
    /// The file, `~` and variables expanded.
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
    /// Fields of requests to the two endpoints, in order: values, and places for what such a
    /// request sets by itself. Where it is empty, this program's own.
    pub headers: Vec<HeaderField>,
}

/// Settings of the `header-align` layer: the profile's fields, in order, with the person's own
/// `set` and `remove` applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderAlign {
    /// The profile's name, for messages.
    pub profile: String,
    /// Client headers that go through where the profile says nothing.
    pub pass: Vec<HeaderName>,
    /// What is sent, in this order.
    pub fields: Vec<HeaderField>,
}

/// One field of a header profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderField {
    /// Its name.
    pub name: HeaderName,
    /// Its value, or whose it is.
    pub rule: HeaderRule,
}

/// What a profile says about one header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderRule {
    /// This value, whatever the client sent.
    Set(HeaderValue),
    /// This value if the client sent none.
    SetIfAbsent(HeaderValue),
    /// This list of codings if the client offered all of them, else the client's own list.
    Narrow(HeaderValue),
    /// Only the place: a later layer or the HTTP client sets the value.
    Place,
}

/// Settings of the `retry-on-429` layer.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryOn429 {
    /// Retries after the first attempt.
    pub max_retries: u32,
    /// The longest time a request is held without a response head.
    pub max_hold: Duration,
    /// The wait when the upstream names none.
    pub default_wait: Duration,
    /// Share of all tries that may be retries, 0.0 to 1.0.
    pub budget: f64,
}

/// Settings of the `token-refresh` layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRefresh {
    /// How long before expiry a token is renewed in the background.
    pub early: Duration,
}

/// Settings of the `jitter-throttle` layer.
#[derive(Clone, Debug, PartialEq)]
pub struct JitterThrottle {
    /// The profile that its defaults came from: `reference` or `quota`.
    pub profile: String,
    /// The least time between two dispatches, jitter not included.
    pub min_interval: Duration,
    /// Added to each gap, drawn anew; the first is not after the second.
    pub jitter: (Duration, Duration),
    /// Another jitter for busy times.
    pub busy: Option<Busy>,
    /// Whether a lone request waits for its jitter too, as the reference does.
    pub idle_jitter: bool,
    /// How many requests in how long.
    pub quotas: Vec<Quota>,
    /// Most requests in flight, until their response bodies end; `None` is no limit.
    pub concurrency: Option<NonZeroUsize>,
    /// Most requests waiting.
    pub max_queue: usize,
    /// The longest estimated wait that is begun.
    pub max_wait: Duration,
    /// Who goes first.
    pub order: Order,
}

/// When it is a busy time, and the jitter then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Busy {
    /// From this many dispatches on …
    pub from: NonZeroUsize,
    /// … within this time.
    pub within: Duration,
    /// The first is not after the second.
    pub jitter: (Duration, Duration),
}

/// How many requests in how long.
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

/// The time a quota is counted over.
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

/// Who goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Turn by turn among sessions.
    Fair,
    /// First come, first served.
    Fifo,
}
