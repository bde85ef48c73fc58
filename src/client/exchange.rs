//! From a request on a connection to its response headers.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version, header};
use http_body::Body as _;
use http_body_util::Full;
use hyper::{body::Incoming, client::conn::TrySendError};
use pacegate_layers::error::{BoxError, chain};
use tokio::task::unconstrained;

use super::{
    error::{AmbiguousLength, UnknownCoding},
    h1,
};
use crate::idle_timer::IdleTimer;

/// A request with its whole body, so that a clone for a retry is cheap.
pub(super) type UpstreamRequest = Request<Full<Bytes>>;

/// Why there are no response headers.
#[derive(Debug)]
pub(super) enum SendError {
    /// The connection broke; the upstream may have seen the request.
    ConnectionLost(BoxError),
    /// The headers are larger than `max-head`.
    HeadTooLarge,
    /// The upstream did not process the request, because it demands HTTP/1.1.
    Http1Required(BoxError),
    /// Not a byte of the request was written, or the upstream has said that it did not process it.
    NotProcessed(BoxError),
    /// The upstream refused the request because there are too many.
    SlowDown(BoxError),
    /// The upstream switched to another protocol, which the request did not ask for.
    UnexpectedUpgrade,
    /// `head-timeout` passed; the upstream has probably seen the request.
    TimedOut,
}

/// Response headers, and the connection and timer for the body.
pub(super) struct ResponseHead {
    pub(super) response: Response<Incoming>,
    /// The HTTP/1.1 connection that the body comes over, unless it has ended.
    pub(super) connection: Option<Box<h1::H1Connection>>,
    pub(super) timer: IdleTimer,
}

/// The space for a status line beside the headers.
pub(super) const STATUS_LINE: usize = 1024;

/// Waits for `response`, for at most `timeout`, and drives an HTTP/1.1 `connection` meanwhile. The
/// first poll writes the request, or as much of it as the socket takes.
///
/// # Cancel safety
///
/// Dropping the future closes `connection`, or resets the HTTP/2 stream.
pub(super) async fn head<R>(
    response: impl Future<Output = Result<Response<Incoming>, TrySendError<R>>>,
    mut connection: Option<Box<h1::H1Connection>>,
    max_head: usize,
    timeout: Duration,
) -> Result<ResponseHead, SendError> {
    let mut timer = IdleTimer::new(timeout);
    // tokio makes a future that has used up its budget return `Pending` and wake itself. The waker
    // below may do nothing, so that wake-up would be lost; `unconstrained` turns the budget off.
    let mut response = pin!(unconstrained(response));
    let mut is_written = false;
    let outcome = poll_fn(|cx| {
        if let Some(open) = &mut connection {
            let closed = if is_written {
                open.poll_closed(cx)
            } else {
                open.poll_closed_unconstrained(cx)
            };
            is_written = true;
            if closed.is_ready() {
                // Dropping it makes hyper return a request that is still in its queue.
                connection = None;
            }
        }
        // The response comes only from the connection that has just been polled; a wake-up would
        // cause a second poll.
        let waker = match connection {
            Some(_) => Waker::noop(),
            None => cx.waker(),
        };
        match response.as_mut().poll(&mut Context::from_waker(waker)) {
            Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
            Poll::Pending => timer.poll_elapsed(timeout, cx).map(|()| None),
        }
    })
    .await;
    let mut response = match outcome {
        Some(Ok(response)) => response,
        Some(Err(error)) => return Err(send_error(error)),
        None => return Err(SendError::TimedOut),
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(SendError::UnexpectedUpgrade);
    }
    if header_size(response.headers()) > max_head {
        return Err(SendError::HeadTooLarge);
    }
    if response.version() < Version::HTTP_2 {
        check_framing(&mut response).map_err(SendError::ConnectionLost)?;
    }
    if let Some(connection) = &mut connection {
        connection.read_keep_alive(response.headers());
    }
    timer.reset();
    Ok(ResponseHead {
        response,
        connection,
        timer,
    })
}

/// What `error` says about the request.
fn send_error<R>(error: TrySendError<R>) -> SendError {
    let is_unwritten = error.message().is_some();
    let error = error.into_error();
    if is_unwritten {
        return SendError::NotProcessed(error.into());
    }
    if error.is_parse_too_large() {
        return SendError::HeadTooLarge;
    }
    let refusal = chain(&error).find_map(|cause| refusal(cause.downcast_ref()?));
    match refusal {
        Some(Reason::ENHANCE_YOUR_CALM) => SendError::SlowDown(error.into()),
        Some(Reason::HTTP_1_1_REQUIRED) => SendError::Http1Required(error.into()),
        Some(_) => SendError::NotProcessed(error.into()),
        None => SendError::ConnectionLost(error.into()),
    }
}

/// Why the upstream did not process the request of a stream that failed with `error`
/// ([RFC 9113 §8.7]), if it said so. h2 reports a GOAWAY only to streams above its last stream.
///
/// [RFC 9113 §8.7]: https://www.rfc-editor.org/rfc/rfc9113#section-8.7
fn refusal(error: &h2::Error) -> Option<Reason> {
    let reason = error.reason().filter(|_| error.is_remote())?;
    let refused = error.is_go_away()
        || matches!(
            reason,
            Reason::ENHANCE_YOUR_CALM | Reason::HTTP_1_1_REQUIRED | Reason::REFUSED_STREAM
        );
    refused.then_some(reason)
}

/// The size of headers in HTTP/1.1: `name: value` and a line ending each, and a final line ending.
fn header_size(headers: &HeaderMap) -> usize {
    let field = |(name, value): (&HeaderName, &HeaderValue)| {
        name.as_str().len() + value.len() + ": \r\n".len()
    };
    headers.iter().map(field).sum::<usize>() + "\r\n".len()
}

/// Refuses a framing that hyper may read in one of two ways, as [RFC 9112 §6.1] allows: the next
/// hop must not read it in the other. Repeated equal lengths are merged.
///
/// [RFC 9112 §6.1]: https://www.rfc-editor.org/rfc/rfc9112#section-6.1
fn check_framing(response: &mut Response<Incoming>) -> Result<(), BoxError> {
    let has_body = response.body().size_hint().exact() != Some(0);
    let headers = response.headers_mut();
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next()
        && has_body
    {
        if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Err(UnknownCoding.into());
        }
        if headers.contains_key(header::CONTENT_LENGTH) {
            return Err(AmbiguousLength.into());
        }
    }
    keep_one_length(headers);
    Ok(())
}

/// Merges repeated equal lengths. hyper does not compare them if there is no body: lengths that
/// differ are removed.
fn keep_one_length(headers: &mut HeaderMap) {
    let mut lengths = headers
        .get_all(header::CONTENT_LENGTH)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii);
    let Some(first) = lengths.next() else {
        return;
    };
    let same = lengths.all(|length| length == first);
    match HeaderValue::from_bytes(first) {
        Ok(first) if same => headers.insert(header::CONTENT_LENGTH, first),
        _ => headers.remove(header::CONTENT_LENGTH),
    };
}
