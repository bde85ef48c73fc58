//! Reads a request's whole body, up to a limit: the model selects the route, and a retry sends the
//! body again.

use std::{
    error::Error as StdError,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use pacegate_layers::error::{BoxError, chain};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::{Layer, Service};

use crate::{body::Body, routes::Draining};

/// Applies [`WholeBody`].
#[derive(Clone, Debug)]
pub(super) struct RequestBodyLayer(Arc<BodyReader>);

/// Passes a request to the inner service once its body has arrived.
#[derive(Clone, Debug)]
pub(super) struct WholeBody<S> {
    inner: S,
    reader: Arc<BodyReader>,
}

/// How to read bodies.
#[derive(Debug)]
pub(super) struct BodyReader {
    /// The maximum size of a body, in bytes.
    pub(super) max_body: usize,
    /// The maximum total size of buffered bodies, in bytes.
    pub(super) max_bodies: usize,
    /// The longest silence within a body.
    pub(super) idle_timeout: Duration,
    /// From the first byte of a body to its last.
    pub(super) timeout: Duration,
    /// The total size of buffered bodies.
    pub(super) budget: BodyBudget,
    /// Cancelled once the process shuts down.
    pub(super) draining: CancellationToken,
}

/// The total size of the bodies that are held, in bytes; clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct BodyBudget(Arc<AtomicUsize>);

/// The part of one body in the total, given back when dropped.
#[derive(Debug)]
struct BodyPermit {
    budget: BodyBudget,
    bytes: usize,
}

/// A body that counts until its last clone is dropped: a retry needs it that long.
struct BudgetedBody {
    data: Bytes,
    _permit: BodyPermit,
}

/// How much of an oversized body is read and dropped before the response: a client that is still
/// sending when the connection closes may never read why.
const DISCARD: usize = 64 * 1024 * 1024;

/// A request body that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestBodyError {
    #[error("the client broke off its request body")]
    Broken(#[source] BoxError),
    #[error(
        "the request bodies that pacegate holds weigh as much as max-bodies allows ({0}); this one \
         has to come again"
    )]
    BudgetSpent(bytesize::ByteSize),
    #[error("the request body stopped arriving; send it again")]
    Idle,
    #[error(
        "the chunked request body is malformed: a chunk is its length in hexadecimal digits, CR LF, \
         so many bytes, CR LF"
    )]
    Malformed,
    #[error("the request body took longer than body-timeout allows; send it again")]
    Slow,
    #[error("the request body is larger than max-body in pacegate's config allows ({0})")]
    TooLarge(bytesize::ByteSize),
}

// === impl RequestBodyError ===

impl RequestBodyError {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Broken(_) | Self::Malformed => StatusCode::BAD_REQUEST,
            Self::BudgetSpent(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Idle | Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
        }
    }

    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Broken(_) | Self::Idle | Self::Slow => "request_incomplete",
            Self::BudgetSpent(_) => "overloaded",
            Self::Malformed => "malformed_request",
            Self::TooLarge(_) => "request_too_large",
        }
    }
}

// === impl RequestBodyLayer ===

impl RequestBodyLayer {
    pub(super) fn new(reader: BodyReader) -> Self {
        Self(Arc::new(reader))
    }
}

impl<S> Layer<S> for RequestBodyLayer {
    type Service = WholeBody<S>;

    fn layer(&self, inner: S) -> Self::Service {
        WholeBody {
            inner,
            reader: Arc::clone(&self.0),
        }
    }
}

// === impl WholeBody ===

impl<S, B> Service<Request<B>> for WholeBody<S>
where
    S: Service<Request<Bytes>, Response = Response<Body>, Error = BoxError>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The ready service goes into the future; its fresh clone has not been polled.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        let reader = Arc::clone(&self.reader);
        // Split here: an async block would store both the request and its parts.
        let (head, body) = request.into_parts();
        Box::pin(async move {
            let body = reader.collect_or_drain(body).await?;
            inner.call(Request::from_parts(head, body)).await
        })
    }
}

// === impl BodyReader ===

impl BodyReader {
    /// Reads `body` to its end, unless the process shuts down before it has arrived.
    ///
    /// # Errors
    ///
    /// [`Draining`], or [`RequestBodyError`].
    async fn collect_or_drain<B>(&self, body: B) -> Result<Bytes, BoxError>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let mut collected = pin!(self.collect(body));
        // Nearly every body has arrived already, and such a body is used.
        if let Poll::Ready(outcome) = poll_fn(|cx| Poll::Ready(collected.as_mut().poll(cx))).await {
            return Ok(outcome?);
        }
        tokio::select! {
            biased;
            outcome = collected => Ok(outcome?),
            () = self.draining.cancelled() => Err(Draining.into()),
        }
    }

    /// Reads `body` to its end.
    ///
    /// # Errors
    ///
    /// [`RequestBodyError`].
    async fn collect<B>(&self, body: B) -> Result<Bytes, RequestBodyError>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        timeout(self.timeout, self.read(body))
            .await
            .unwrap_or(Err(RequestBodyError::Slow))
    }

    async fn read<B>(&self, mut body: B) -> Result<Bytes, RequestBodyError>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let discard_beyond = self.max_body.saturating_add(DISCARD);
        let size = |bytes| bytesize::ByteSize(bytes as u64);
        if body.size_hint().lower() > discard_beyond as u64 {
            return Err(RequestBodyError::TooLarge(size(self.max_body)));
        }
        let mut reserved = Some((CollectedBody::Empty, self.budget.reserve()));
        let mut refused = None;
        let mut length = 0_usize;
        while let Some(frame) = self.next(&mut body).await? {
            let Ok(data) = frame.into_data() else {
                continue;
            };
            length = length.saturating_add(data.len());
            if length > discard_beyond {
                break;
            }
            let Some((whole, permit)) = &mut reserved else {
                continue;
            };
            if length > self.max_body {
                refused = Some(RequestBodyError::TooLarge(size(self.max_body)));
                reserved = None;
            } else if !permit.add(data.len(), self.max_bodies) {
                refused = Some(RequestBodyError::BudgetSpent(size(self.max_bodies)));
                reserved = None;
            } else {
                whole.push(data, body.size_hint().lower());
            }
        }
        match (refused, reserved) {
            (None, Some((CollectedBody::Empty, _))) => Ok(Bytes::new()),
            (None, Some((whole, permit))) => Ok(permit.attach(whole.into_bytes())),
            (refused, _) => Err(refused.unwrap_or(RequestBodyError::TooLarge(size(self.max_body)))),
        }
    }

    async fn next<B>(
        &self,
        body: &mut B,
    ) -> Result<Option<http_body::Frame<Bytes>>, RequestBodyError>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        timeout(self.idle_timeout, body.frame())
            .await
            .map_err(|_elapsed| RequestBodyError::Idle)?
            .transpose()
            .map_err(|error| {
                let error = error.into();
                if is_malformed(&*error) {
                    RequestBodyError::Malformed
                } else {
                    RequestBodyError::Broken(error)
                }
            })
    }
}

/// Whether `error` means that the chunked coding of a body is malformed. hyper shows it by the kind
/// of the cause only.
fn is_malformed(error: &(dyn StdError + 'static)) -> bool {
    chain(error).any(|cause| {
        let cause = cause.downcast_ref::<io::Error>();
        let kind = cause.map(io::Error::kind);
        matches!(
            kind,
            Some(io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput)
        )
    })
}

/// The body so far. A single chunk is not copied.
enum CollectedBody {
    Empty,
    One(Bytes),
    Many(BytesMut),
}

impl CollectedBody {
    fn push(&mut self, data: Bytes, expected: u64) {
        *self = match std::mem::replace(self, Self::Empty) {
            Self::Empty => Self::One(data),
            Self::One(first) => {
                let expected = usize::try_from(expected).unwrap_or_default();
                let mut all = BytesMut::with_capacity(first.len() + data.len() + expected);
                all.extend_from_slice(&first);
                all.extend_from_slice(&data);
                Self::Many(all)
            }
            Self::Many(mut all) => {
                all.extend_from_slice(&data);
                Self::Many(all)
            }
        };
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Empty => Bytes::new(),
            Self::One(data) => data,
            Self::Many(all) => all.freeze(),
        }
    }
}

// === impl BodyBudget ===

impl BodyBudget {
    fn reserve(&self) -> BodyPermit {
        BodyPermit {
            budget: self.clone(),
            bytes: 0,
        }
    }

    #[cfg(test)]
    fn used(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

// === impl BodyPermit ===

impl BodyPermit {
    /// Adds `bytes`, unless the total would exceed `most`.
    #[must_use]
    fn add(&mut self, bytes: usize, most: usize) -> bool {
        let sum = self.budget.0.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if sum > most {
            self.budget.0.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.bytes += bytes;
        true
    }

    /// `data`, which counts as long as a clone of it exists.
    fn attach(self, data: Bytes) -> Bytes {
        Bytes::from_owner(BudgetedBody {
            data,
            _permit: self,
        })
    }
}

impl Drop for BodyPermit {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl AsRef<[u8]> for BudgetedBody {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

#[cfg(test)]
mod tests;
