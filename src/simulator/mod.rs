//! The fake upstream: an OpenAI-compatible server that limits, fails and records on command.
//!
//! Tests start it in their own process ([`Simulator::start`]), `pacegate simulate` runs it alone. It
//! knows nothing of the gateway, so that what it saw is evidence and not an opinion.
//!
//! It answers `POST /v1/chat/completions` (plain and SSE), `GET /v1/models`, every other `/v1/…`
//! with an echo, and the two endpoints of an OAuth device grant. From a shell, `GET
//! /simulator/arrivals` reads the record, `POST /simulator/faults` takes a JSON list of fault
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
mod faults;
mod hint;
mod limits;
mod oauth;
mod record;
mod route;
mod script;
mod serve;
mod tls;
mod wire;
mod wording;

pub use faults::{BadFault, Fault, Refusal, Rule, When};
pub use hint::Hint;
pub use limits::{BadWindow, Limits, Window};
pub use oauth::{Behaviour, DeviceAnswer, Grant, RefreshFault};
pub use record::{Arrival, Outcome};
pub use tls::{Leaf, Tls};
pub use wording::{Reason, Wording};

/// How the fake upstream behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Serve TLS under a CA made for this run.
    pub tls: Option<Tls>,
    /// What `/v1/models` lists. A chat may name any model.
    pub models: Vec<String>,
    /// Who may use `/v1/…`.
    pub access: Access,
    /// Silence before the head of an admitted chat answer.
    pub latency: Duration,
    /// What a chat answers with.
    pub answer: Answer,
    /// Content chunks of a streamed chat; words of a plain one.
    pub chunks: usize,
    /// Silence before each content chunk; zero sends as fast as the client reads.
    pub chunk_gap: Duration,
    /// An SSE comment (without its colon) to send before each content chunk.
    pub comment: Option<String>,
    /// What it admits; the rest is refused in the words of `wording`.
    pub limits: Limits,
    /// Whose words it uses.
    pub wording: Wording,
    /// What goes wrong, and when.
    pub faults: Vec<Rule>,
    /// How the OAuth endpoints behave.
    pub oauth: Behaviour,
}

/// Who may use `/v1/…`. Everybody else is answered 401.
#[derive(Clone, Debug, Default)]
pub enum Access {
    /// Whoever sends some bearer token.
    AnyToken,
    /// Whoever sends an unexpired token from the token endpoint.
    Issued,
    /// Everybody.
    #[default]
    Open,
    /// Whoever sends one of these.
    Tokens(Vec<String>),
}

/// What a chat request is answered with.
#[derive(Clone, Debug, Default)]
pub enum Answer {
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
    shared: Arc<Shared>,
    stop: DropGuard,
    tracker: TaskTracker,
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    options: Options,
    record: Arc<record::Record>,
    faults: Mutex<faults::Plan>,
    gate: Arc<Mutex<limits::Gate>>,
    issuer: Mutex<oauth::Issuer>,
    connections: AtomicUsize,
}

// === impl Options ===

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: None,
            models: vec!["sim-large".into(), "sim-small".into()],
            access: Access::default(),
            latency: Duration::ZERO,
            answer: Answer::default(),
            chunks: 8,
            chunk_gap: Duration::ZERO,
            comment: None,
            limits: Limits::default(),
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

        let shared = Arc::new(Shared {
            record: Arc::new(record::Record::new(Instant::now())),
            faults: Mutex::new(faults::Plan::new(options.faults.clone())),
            gate: Arc::new(Mutex::new(limits::Gate::new(options.limits.clone()))),
            issuer: Mutex::new(oauth::Issuer::new(options.oauth.clone())),
            connections: AtomicUsize::new(0),
            options,
        });
        let stop = CancellationToken::new();
        let tracker = TaskTracker::new();
        let house = serve::House {
            shared: Arc::clone(&shared),
            stop: stop.clone(),
            tracker: tracker.clone(),
        };
        tracker.spawn(house.accept(listener, acceptor));
        Ok(Self {
            address,
            ca_pem,
            shared,
            stop: stop.drop_guard(),
            tracker,
        })
    }

    /// Replaces what goes wrong, and counts requests from 1 again for [`When::Nth`].
    pub fn set_faults(&self, faults: Vec<Rule>) {
        *self.shared.faults.lock() = faults::Plan::new(faults);
    }

    /// Adds one more thing to go wrong.
    pub fn push_fault(&self, fault: Rule) {
        self.shared.faults.lock().push(fault);
    }

    /// Adds one more thing to go wrong with a refresh.
    pub fn push_refresh_fault(&self, fault: RefreshFault) {
        self.shared.issuer.lock().push_refresh_fault(fault);
    }

    /// Issues a token pair out of band, as if someone had logged in.
    pub fn issue(&self) -> Grant {
        self.shared.issuer.lock().issue(Instant::now())
    }

    /// Lets the access tokens that are issued from now on live for `lifetime`.
    pub fn set_token_lifetime(&self, lifetime: Duration) {
        self.shared.issuer.lock().set_token_lifetime(lifetime);
    }

    /// Makes every access token issued so far stop working; refresh tokens keep working.
    pub fn revoke_access_tokens(&self) {
        self.shared.issuer.lock().revoke_access_tokens();
    }

    /// Forgets arrivals, faults and what the limits counted.
    pub fn reset(&self) {
        self.shared.reset();
    }

    /// Stops accepting, cuts every connection and waits until the last task has ended.
    pub async fn shutdown(self) {
        drop(self.stop);
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Where it listens.
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

    /// What a client takes for its base URL: the origin and `/v1`.
    pub fn base_url(&self) -> String {
        format!("{}/v1", self.origin())
    }

    /// The certificate to trust, when it serves TLS.
    pub fn ca_pem(&self) -> Option<&str> {
        self.ca_pem.as_deref()
    }

    /// Every request so far in order of arrival, except those to `/simulator/…`.
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.shared.record.arrivals()
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Recorded requests whose answer has not ended.
    pub fn in_flight(&self) -> usize {
        self.shared.record.in_flight()
    }
}

// === impl Shared ===

impl Shared {
    fn reset(&self) {
        self.record.clear();
        self.gate.lock().clear();
        *self.faults.lock() = faults::Plan::default();
    }
}
