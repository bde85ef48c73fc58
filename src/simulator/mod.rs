//! The fake upstream: an OpenAI-compatible server that limits, fails and records on command.
//!
//! Tests start it in their own process ([`Simulator::start`]), `pacegate simulate` runs it alone. It
//! knows nothing of the gateway, so that its record is independent evidence.
//!
//! It answers `POST /v1/chat/completions` (plain and SSE), `GET /v1/models`, every other `/v1/…`
//! with an echo, and the two endpoints of an OAuth device grant. From a shell, `GET
//! /simulator/arrivals` returns the recorded requests, `POST /simulator/faults` takes a JSON list of fault
//! specifications, and `POST /simulator/reset` forgets both.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{net::TcpListener, time::Instant};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

mod chat;
mod connection;
mod faults;
mod hint;
mod limits;
mod oauth;
mod record;
mod route;
mod script;
mod serve;
mod tls;
mod wording;

pub use connection::ConnectionOptions;
pub use faults::{BadFault, Fault, FaultResponse, FaultRule, StreamError, When};
pub use hint::Hint;
pub use limits::{BadWindow, ChatLimits, WindowLimit};
pub use oauth::{Behaviour, DeviceAnswer, RefreshFault, TokenPair};
pub use record::{Arrival, ResponseEnd};
pub use tls::{Leaf, TlsOptions};
pub use wording::{Reason, Wording};

/// How the fake upstream behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Serve TLS under a CA made for this run.
    pub tls: Option<TlsOptions>,
    /// How connections are set up, and when they end.
    pub connections: ConnectionOptions,
    /// What `/v1/models` lists. A chat may name any model.
    pub models: Vec<String>,
    /// Who may use `/v1/…`.
    pub access: Access,
    /// Delay before the response headers of an admitted chat.
    pub latency: Duration,
    /// The response to a chat.
    pub response: ResponseKind,
    /// Content chunks of a streamed chat; words of a plain one.
    pub chunks: usize,
    /// Delay before each content chunk; zero sends as fast as the client reads.
    pub chunk_gap: Duration,
    /// An SSE comment (without its colon) to send before each content chunk.
    pub comment: Option<String>,
    /// Limits on chats; a chat over a limit is refused in the format of `wording`.
    pub limits: ChatLimits,
    /// The provider whose errors it imitates.
    pub wording: Wording,
    /// Faults to inject.
    pub faults: Vec<FaultRule>,
    /// How the OAuth endpoints behave.
    pub oauth: Behaviour,
}

/// Which clients may use `/v1/…`. All others get a 401.
#[derive(Clone, Debug, Default)]
pub enum Access {
    /// Clients that send any bearer token.
    AnyToken,
    /// Clients that send an unexpired token from the token endpoint.
    Issued,
    /// All clients.
    #[default]
    Open,
    /// Clients that send one of these bearer tokens.
    Tokens(Vec<String>),
}

/// The response to a chat request.
#[derive(Clone, Debug, Default)]
pub enum ResponseKind {
    /// A JSON document of exactly this many bytes (at least 11).
    Blob(usize),
    /// A chat completion, streamed if the request asks for it.
    #[default]
    Chat,
    /// The request's own body, byte for byte.
    Echo,
    /// A plain chat completion under `content-encoding: gzip`, always the same bytes.
    Gzip,
}

/// A running fake upstream. It stops when dropped.
#[derive(Debug)]
pub struct Simulator {
    address: SocketAddr,
    ca_pem: Option<String>,
    state: Arc<SimulatorState>,
    stop: DropGuard,
    tracker: TaskTracker,
}

/// State shared by all connections.
#[derive(Debug)]
struct SimulatorState {
    options: Options,
    log: Arc<record::ArrivalLog>,
    faults: Mutex<faults::FaultPlan>,
    limiter: Arc<Mutex<limits::ChatLimiter>>,
    issuer: Mutex<oauth::Issuer>,
    connections: AtomicUsize,
}

// === impl Options ===

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: None,
            connections: ConnectionOptions::default(),
            models: vec!["sim-large".into(), "sim-small".into()],
            access: Access::default(),
            latency: Duration::ZERO,
            response: ResponseKind::default(),
            chunks: 8,
            chunk_gap: Duration::ZERO,
            comment: None,
            limits: ChatLimits::default(),
            wording: Wording::default(),
            faults: Vec::new(),
            oauth: Behaviour::default(),
        }
    }
}

// === impl Simulator ===

impl Simulator {
    /// Starts serving on the current runtime; when it returns, connections are accepted.
    ///
    /// # Errors
    ///
    /// When the address cannot be bound, or a certificate cannot be made for the names.
    pub async fn start(options: Options) -> io::Result<Self> {
        let authority = options.tls.as_ref().map(tls::build).transpose()?;
        let listener = TcpListener::bind(options.listen).await?;
        let address = listener.local_addr()?;
        let (acceptor, ca_pem) = authority.unzip();

        let state = Arc::new(SimulatorState {
            log: Arc::new(record::ArrivalLog::new(Instant::now())),
            faults: Mutex::new(faults::FaultPlan::new(options.faults.clone())),
            limiter: Arc::new(Mutex::new(limits::ChatLimiter::new(options.limits.clone()))),
            issuer: Mutex::new(oauth::Issuer::new(options.oauth.clone())),
            connections: AtomicUsize::new(0),
            options,
        });
        let stop = CancellationToken::new();
        let tracker = TaskTracker::new();
        let server = serve::Server {
            state: Arc::clone(&state),
            stop: stop.clone(),
            tracker: tracker.clone(),
        };
        tracker.spawn(server.accept(listener, acceptor));
        Ok(Self {
            address,
            ca_pem,
            state,
            stop: stop.drop_guard(),
            tracker,
        })
    }

    /// Replaces the faults, and restarts the count of chats for [`When::Nth`].
    pub fn set_faults(&self, faults: Vec<FaultRule>) {
        *self.state.faults.lock() = faults::FaultPlan::new(faults);
    }

    /// Adds a fault.
    pub fn push_fault(&self, fault: FaultRule) {
        self.state.faults.lock().push(fault);
    }

    /// Adds a fault for a token refresh.
    pub fn push_refresh_fault(&self, fault: RefreshFault) {
        self.state.issuer.lock().push_refresh_fault(fault);
    }

    /// Issues a token pair out of band, as if a user had logged in.
    pub fn issue(&self) -> TokenPair {
        self.state.issuer.lock().issue(Instant::now())
    }

    /// Sets the lifetime of access tokens that are issued from now on.
    pub fn set_token_lifetime(&self, lifetime: Duration) {
        self.state.issuer.lock().set_token_lifetime(lifetime);
    }

    /// Revokes all access tokens; refresh tokens stay valid.
    pub fn revoke_access_tokens(&self) {
        self.state.issuer.lock().revoke_access_tokens();
    }

    /// Clears arrivals, faults and the counts of the windows.
    pub fn reset(&self) {
        self.state.reset();
    }

    /// Stops accepting, closes every connection and waits for all tasks.
    pub async fn shutdown(self) {
        drop(self.stop);
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Scheme and address, without a path.
    pub fn origin(&self) -> String {
        let scheme = if self.ca_pem.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{}", self.address)
    }

    /// The base URL for clients: the origin and `/v1`.
    pub fn base_url(&self) -> String {
        format!("{}/v1", self.origin())
    }

    /// The CA certificate to trust, if it serves TLS.
    pub fn ca_pem(&self) -> Option<&str> {
        self.ca_pem.as_deref()
    }

    /// All requests in order of arrival, except those to `/simulator/…`.
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.state.log.arrivals()
    }

    /// The instant that the times of the record are counted from.
    pub fn record_start(&self) -> Instant {
        self.state.log.start()
    }

    /// The number of open connections.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Relaxed)
    }

    /// The number of recorded requests whose response has not ended.
    pub fn in_flight(&self) -> usize {
        self.state.log.in_flight()
    }
}

// === impl SimulatorState ===

impl SimulatorState {
    fn reset(&self) {
        self.log.clear();
        self.limiter.lock().clear();
        *self.faults.lock() = faults::FaultPlan::default();
    }
}
