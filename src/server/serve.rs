//! One connection, from its handshake to its end.

use std::{pin::pin, sync::Arc};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{either::Either, sync::CancellationToken};
use tracing::debug;

use super::connection::{ClientIo, Connection, Socket};
use crate::{config::Limits, edge::reload::ReloadableEdge, telemetry::metrics::EdgeMetrics};

/// The bytes of HTTP.
type Transport = Either<ClientIo, TlsStream<ClientIo>>;

/// One connection, counted as such until dropped.
struct CountedConnection(Arc<EdgeMetrics>);

/// Serves `connection` until it ends by itself, the process winds down and its answer is sent, or
/// `cut_off` says that no time is left.
pub(crate) async fn serve(
    socket: Socket,
    connection: Connection,
    current: ReloadableEdge,
    cut_off: CancellationToken,
) {
    let _counted = CountedConnection::new(current.metrics());
    let limits = current.limits();
    let io = ClientIo::new(socket, connection.clone(), limits.write_timeout);
    let to_the_end = async {
        if let Some(transport) = accept(io, &connection, &current, &limits).await {
            exchange(transport, &connection, &current, &limits).await;
        }
    };
    let interrupted = async {
        tokio::select! {
            () = connection.evicted() => debug!("Making room for another connection"),
            // While the socket is still there to be reset.
            () = cut_off.cancelled() => connection.reset_at_the_end(),
        }
    };
    tokio::select! {
        biased;
        () = to_the_end => {}
        () = interrupted => {}
    }
}

/// The bytes of HTTP on `io`; `None` if there will be none.
async fn accept(
    io: ClientIo,
    connection: &Connection,
    current: &ReloadableEdge,
    limits: &Limits,
) -> Option<Transport> {
    let Some(tls) = current.tls() else {
        return Some(Either::Left(io));
    };
    let accepted = tokio::select! {
        biased;
        accepted = TlsAcceptor::from(tls).accept(io) => accepted,
        // The time-outs for a first head are also those of a handshake.
        () = connection.silent_too_long(limits) => return None,
        () = current.draining().cancelled() => return None,
    };
    accepted
        .inspect_err(|error| debug!(%error, "TLS handshake failed"))
        .ok()
        .map(Either::Right)
}

/// Requests and answers, one after the other.
async fn exchange(
    transport: Transport,
    connection: &Connection,
    current: &ReloadableEdge,
    limits: &Limits,
) {
    let service = service_fn(|mut request| {
        request.extensions_mut().insert(connection.clone());
        current.answer(request)
    });
    let mut served = pin!(
        http1::Builder::new()
            // See `silent_too_long`.
            .header_read_timeout(None)
            // A client that is told that there is no room gives up its connection.
            .keep_alive(!connection.is_over_limit())
            .max_buf_size(buffer(limits))
            // Small events that are ready leave in one write.
            .writev(false)
            .serve_connection(TokioIo::new(transport), service)
    );
    let outcome = tokio::select! {
        biased;
        outcome = served.as_mut() => Some(outcome),
        () = connection.silent_too_long(limits) => None,
        () = current.draining().cancelled() => None,
    };
    let outcome = match outcome {
        Some(outcome) => outcome,
        None => {
            connection.end();
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = outcome {
        debug!(%error, "Connection ended early");
    }
}

/// The most of a head, a body or an answer that lies in a connection's buffers. Whole heads have to fit
/// in, and those a little too large as well, so that the guard says why they are refused.
fn buffer(limits: &Limits) -> usize {
    const SMALLEST: usize = 64 * 1024;
    let head = limits.max_header_size.saturating_add(limits.max_target);
    head.saturating_mul(2).max(SMALLEST)
}

// === impl CountedConnection ===

impl CountedConnection {
    fn new(metrics: &Arc<EdgeMetrics>) -> Self {
        metrics.connections.inc();
        Self(Arc::clone(metrics))
    }
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        self.0.connections.dec();
    }
}
