//! Records when requests arrive, and nothing of their content.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use pacegate_layers::context::{RequestContext, Session};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tower::ServiceExt;
use tracing::warn;

use crate::upstreams::UpstreamService;

/// One arrival, as a line of the file.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct RecordLine {
    /// Milliseconds since the first arrival of the run.
    pub at_ms: f64,
    /// The session, recorded by number in the order of appearance.
    pub session: String,
    /// The parent session.
    #[serde(default)]
    pub parent: Option<String>,
    /// The requested model.
    #[serde(default)]
    pub model: Option<String>,
    /// Whether the response is to be a stream.
    #[serde(default)]
    pub stream: bool,
    /// The size of the request body.
    #[serde(default)]
    pub bytes: u64,
    /// What the request is for, if it was added by hand.
    #[serde(default)]
    pub kind: Option<String>,
}

/// A file for arrivals; clones share it.
#[derive(Clone, Debug)]
pub struct Recorder(Arc<Mutex<RecorderState>>);

#[derive(Debug)]
struct RecorderState {
    file: File,
    first: Option<Instant>,
    /// Sessions by name; only the numbers are recorded.
    sessions: HashMap<String, usize>,
    broken: bool,
}

/// The recorded parameters of a body.
#[derive(Default, Deserialize)]
struct RecordedParams {
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    stream: Option<bool>,
}

// === impl Recorder ===

impl Recorder {
    /// Opens or creates `path`; only its owner may read it.
    ///
    /// # Errors
    ///
    /// If the file cannot be opened for writing.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.append(true).create(true).mode(0o600).open(path)?;
        // The file may have existed; a pipe or a terminal has rights of its own.
        if file.metadata()?.is_file() {
            file.set_permissions(Permissions::from_mode(0o600))?;
        }
        Ok(Self(Arc::new(Mutex::new(RecorderState {
            file,
            first: None,
            sessions: HashMap::new(),
            broken: false,
        }))))
    }

    /// Records every request to `pipeline`.
    pub fn watch(&self, pipeline: UpstreamService) -> UpstreamService {
        let recorder = self.clone();
        UpstreamService::new(pipeline.map_request(move |request: Request<Full<Bytes>>| {
            recorder.record(&request);
            request
        }))
    }

    fn record(&self, request: &Request<Full<Bytes>>) {
        let mut state = self.0.lock();
        if let Err(error) = state.write(request)
            && !std::mem::replace(&mut state.broken, true)
        {
            warn!(%error, "Recording an arrival failed");
        }
    }
}

// === impl RecorderState ===

impl RecorderState {
    fn write(&mut self, request: &Request<Full<Bytes>>) -> io::Result<()> {
        let parent = request.headers().get("x-parent-session-id");
        let parent = parent.and_then(|parent| parent.to_str().ok());
        let parent = parent.map(|parent| self.number(parent));
        let context = request.extensions().get::<RequestContext>();
        let session = context.and_then(RequestContext::session);
        let now = Instant::now();
        let at = now - *self.first.get_or_insert(now);
        let body = request.body().clone().into_inner().unwrap_or_default();
        // A body without a model, or one that is no JSON, is recorded as well.
        let params: RecordedParams = serde_json::from_slice(&body).unwrap_or_default();
        let line = RecordLine {
            at_ms: (at.as_secs_f64() * 10_000.0).round() / 10.0,
            session: self.number(session.map_or("", Session::id)),
            parent,
            model: params.model,
            stream: params.stream.unwrap_or(false),
            bytes: body.len() as u64,
            kind: None,
        };
        let mut text = serde_json::to_string(&line)?;
        text.push('\n');
        // In one write, so that a line is complete or absent.
        self.file.write_all(text.as_bytes())
    }

    fn number(&mut self, session: &str) -> String {
        let next = self.sessions.len() + 1;
        let number = self.sessions.entry(session.to_owned()).or_insert(next);
        format!("s{number}")
    }
}
