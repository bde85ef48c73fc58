//! From a request and a connection to the response.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http::Response;
use http_body::Body as _;
use http_body_util::Full;
use tokio::task::coop;

use super::{Body, Connection, request_head};
use crate::upstream::{
    exchange::{Failed, Outgoing, header_size},
    target::Target,
};

/// One request on one connection, up to the head of the response.
///
/// # Cancel safety
///
/// Dropping it closes the connection at once.
pub(in crate::upstream) struct Exchange {
    target: Arc<Target>,
    /// Kept until there is an answer: a connection that turns out to be closed gives it back.
    request: Outgoing,
    connection: Option<Box<Connection>>,
    has_begun: bool,
}

// === impl Exchange ===

impl Exchange {
    pub(in crate::upstream) fn new(
        connection: Box<Connection>,
        request: Outgoing,
        target: Arc<Target>,
    ) -> Self {
        Self {
            target,
            request,
            connection: Some(connection),
            has_begun: false,
        }
    }

    /// Gives the request back, of which not a byte was written.
    fn unsent(&mut self) -> Failed {
        self.connection = None;
        Failed::Unsent(Box::new(std::mem::take(&mut self.request)))
    }
}

impl Future for Exchange {
    type Output = Result<Response<Body>, Failed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        // Without one it has been polled to its end.
        let Some(connection) = &mut this.connection else {
            return Poll::Pending;
        };
        if !this.has_begun {
            if !coop::has_budget_remaining() {
                // In the next turn it can be seen whether the connection is still there.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if !connection.is_quiet() {
                return Poll::Ready(Err(this.unsent()));
            }
            let body = bytes(this.request.body());
            let head = request_head::write(&this.request, &this.target, body.len());
            connection.begin(this.request.method(), head, body);
            this.has_begun = true;
        }
        connection.send(cx);
        if connection.has_sent_nothing() {
            return Poll::Ready(Err(this.unsent()));
        }
        let outcome = ready!(connection.poll_head(cx));
        let connection = this.connection.take();
        let head = outcome?;
        if let Some(connection) = &connection {
            let most = connection.limits.max_head;
            // Of the wire a head takes a little more than what is counted.
            if head.size > most && header_size(head.response.headers()) > most {
                return Poll::Ready(Err(Failed::HeadTooLarge));
            }
        }
        let pool = this.target.connections.idle.clone();
        let body = Body::new(connection, head.framing, pool);
        Poll::Ready(Ok(head.response.map(|()| body)))
    }
}

/// What `body`, which is complete, consists of.
fn bytes(body: &Full<Bytes>) -> Bytes {
    let mut body = body.clone();
    match Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
        _ => Bytes::new(),
    }
}
