//! From a request that is handed over to the head of its response.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, client::conn::TrySendError};
use tokio::{task::unconstrained, time::Sleep};

use super::h1::Connection;

/// What goes out: complete, so that sending it again is a cheap clone.
pub(super) type Outgoing = Request<Full<Bytes>>;

/// Why no response head came.
#[derive(Debug)]
pub(super) enum Failed {
    /// The connection broke; the upstream may have seen the request.
    Broken(hyper::Error),
    /// A head came that is too large.
    HeadTooLarge,
    /// The upstream wants to speak another protocol, which nobody asked for.
    Switched,
    /// The deadline passed; the upstream has probably seen the request.
    TimedOut,
    /// The connection was over before the first byte was written. Boxed for its size.
    Unsent(Box<Outgoing>),
}

/// Waits for `response` until `deadline`, moving the bytes of `connection` meanwhile, and hands the
/// connection back with the head unless it has ended.
///
/// # Cancel safety
///
/// Dropping the future closes `connection`.
pub(super) async fn head(
    response: impl Future<Output = Result<Response<Incoming>, TrySendError<Outgoing>>>,
    mut connection: Option<Box<Connection>>,
    mut deadline: Pin<&mut Sleep>,
) -> Result<(Response<Incoming>, Option<Box<Connection>>), Failed> {
    // Unconstrained, because a pause that tokio prescribes would wake nobody below.
    let mut response = pin!(unconstrained(response));
    let outcome = poll_fn(|cx| {
        if let Some(open) = &mut connection
            && open.poll_closed(cx).is_ready()
        {
            // Dropping it makes hyper give back a request that is still in its queue.
            connection = None;
        }
        // An answer comes from nowhere but the connection that has just been polled: to be woken for
        // it would be to be polled twice.
        let waker = if connection.is_some() {
            Waker::noop()
        } else {
            cx.waker()
        };
        match response.as_mut().poll(&mut Context::from_waker(waker)) {
            Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
            Poll::Pending => deadline.as_mut().poll(cx).map(|()| None),
        }
    })
    .await;
    match outcome {
        // What comes behind it is no HTTP, so the connection goes, too.
        Some(Ok(head)) if head.status() == StatusCode::SWITCHING_PROTOCOLS => Err(Failed::Switched),
        Some(Ok(head)) => Ok((head, connection)),
        // For HTTP/2 hyper does not tell a stream that was refused unprocessed from one that
        // broke, so there too only a request that never left the queue comes back.
        Some(Err(mut error)) => Err(match error.take_message() {
            Some(request) => Failed::Unsent(Box::new(request)),
            None => Failed::Broken(error.into_error()),
        }),
        None => Err(Failed::TimedOut),
    }
}
