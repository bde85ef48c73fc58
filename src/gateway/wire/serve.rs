//! One connection, from its handshake to its end.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    bell::{Bell, WhenRung},
    connection::{ClientIo, Connection},
    framing::{Framed, HeadLimits},
    hangup::Hangup,
    stream::Stream,
    transport::Transport,
};
use crate::{config::Limits, gateway::current::Current, metrics::EdgeMetrics};

/// One connection, counted as such until dropped.
struct Counted(Arc<EdgeMetrics>);

/// Serves `connection` until it ends by itself, the process winds down and its answer is sent, or
/// `cut_off` says that no time is left.
pub(in crate::gateway) async fn serve(
    stream: Stream,
    connection: Connection,
    current: Current,
    cut_off: CancellationToken,
) {
    let _counted = Counted::new(current.metrics());
    let limits = current.limits();
    let io = ClientIo::new(stream.clone(), connection.clone(), &limits);
    let to_the_end = async {
        if let Some(transport) = accept(io, &current).await {
            let hangup = Hangup::new(stream, connection.clone());
            exchange(transport, hangup, &connection, &current, &limits).await;
        }
    };
    let interrupted = async {
        tokio::select! {
            () = connection.evicted() => debug!("Making room for another connection"),
            // While it is still there to be reset.
            () = cut_off.cancelled() => connection.reset_at_the_end(),
        }
    };
    tokio::select! {
        biased;
        () = to_the_end => {}
        () = WhenRung::new(interrupted, Bell::new()) => {}
    }
}

/// The bytes of HTTP on `io`; `None` if there will be none.
async fn accept(io: ClientIo, current: &Current) -> Option<Transport> {
    let Some(tls) = current.tls() else {
        return Some(Transport::Plain(io));
    };
    // The time-outs for a first head are also this one's.
    let accepted = tokio::select! {
        accepted = TlsAcceptor::from(tls).accept(io) => accepted,
        () = current.draining().cancelled() => return None,
    };
    accepted
        .inspect_err(|error| debug!(%error, "TLS handshake failed"))
        .ok()
        .map(|stream| Transport::Tls(Box::new(stream)))
}

/// Requests and answers, one after the other.
async fn exchange(
    transport: Transport,
    mut hangup: Hangup,
    connection: &Connection,
    current: &Current,
    limits: &Limits,
) {
    let answer = Bell::new();
    let service = service_fn(|mut request| {
        request.extensions_mut().insert(connection.clone());
        WhenRung::new(current.answer(request), answer.clone())
    });
    let io = Framed::new(transport, connection.clone(), HeadLimits::from(limits));
    // Pinned where it is made: a connection is large, and would be kept twice.
    let mut served = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            // ClientIo's time-outs; hyper's would also end idle connections.
            .header_read_timeout(None)
            // Whoever is told that there is no room gives it up.
            .keep_alive(!connection.overcrowds())
            // Hangup looks for an end meanwhile.
            .half_close(true)
            .max_buf_size(buffer(limits))
            .serve_connection(TokioIo::new(io), service)
    );
    let bell = Bell::new();
    let draining = WhenRung::new(current.draining().cancelled(), Bell::new());
    let outcome = tokio::select! {
        biased;
        outcome = until_hangup(served.as_mut(), &mut hangup, &bell) => outcome,
        () = draining => {
            connection.end();
            served.as_mut().graceful_shutdown();
            until_hangup(served, &mut hangup, &bell).await
        }
    };
    if let Err(error) = outcome {
        debug!(%error, "Connection ended early");
    }
}

/// What `served` comes to, unless the client leaves before.
async fn until_hangup(
    mut served: Pin<&mut impl Future<Output = hyper::Result<()>>>,
    hangup: &mut Hangup,
    bell: &Bell,
) -> hyper::Result<()> {
    let mut poll = |cx: &mut Context<'_>| {
        if let Poll::Ready(outcome) = served.as_mut().poll(cx) {
            return Poll::Ready(outcome);
        }
        ready!(hangup.poll(cx));
        debug!("Client hung up");
        Poll::Ready(Ok(()))
    };
    poll_fn(|cx| bell.poll_twice(cx, &mut poll)).await
}

/// How much of a head, a body or an answer lies in a connection's buffers at most. Whole heads have
/// to fit in; more only keeps memory.
fn buffer(limits: &Limits) -> usize {
    const LEAST: usize = 64 * 1024;
    HeadLimits::from(limits).head().max(LEAST)
}

// === impl Counted ===

impl Counted {
    fn new(metrics: &Arc<EdgeMetrics>) -> Self {
        metrics.connections.inc();
        Self(Arc::clone(metrics))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.dec();
    }
}
