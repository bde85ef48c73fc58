//! One connection, from its handshake to its end.

use std::{pin::pin, sync::Arc};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    connection::{ClientIo, Connection},
    framing::{Framed, HeadLimits},
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
    let io = ClientIo::new(stream, connection.clone(), &limits);
    let hangup = io.hangup();
    let to_the_end = async {
        if let Some(transport) = accept(io, &current).await {
            exchange(transport, &connection, &current, &limits).await;
        }
    };
    let no_time_left = async {
        cut_off.cancelled().await;
        // While it is still there to be reset.
        connection.reset_at_the_end();
    };
    tokio::select! {
        // The connection first, so that what watches it learns of an answer that has begun without
        // being woken for it.
        biased;
        () = to_the_end => {}
        () = hangup => debug!("Client hung up"),
        () = connection.evicted() => debug!("Making room for another connection"),
        () = no_time_left => {}
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
    connection: &Connection,
    current: &Current,
    limits: &Limits,
) {
    let service = service_fn(|mut request| {
        request.extensions_mut().insert(connection.clone());
        current.answer(request)
    });
    let io = Framed::new(transport, HeadLimits::from(limits));
    // Pinned where it is made: a connection is large, and would be kept twice.
    let mut served = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            // ClientIo's time-outs; hyper's would also end idle connections.
            .header_read_timeout(None)
            // Whoever is told that there is no room gives it up.
            .keep_alive(!connection.overcrowds())
            .max_buf_size(buffer(limits))
            .serve_connection(TokioIo::new(io), service)
    );
    let outcome = tokio::select! {
        outcome = served.as_mut() => outcome,
        () = current.draining().cancelled() => {
            connection.end();
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = outcome {
        debug!(%error, "Connection ended early");
    }
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
