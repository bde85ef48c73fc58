//! One connection, from its TLS handshake to its end.

use std::{convert::Infallible, pin::pin, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use pacegate_layers::error::BoxError;
use rustls::ServerConfig;
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{either::Either, sync::CancellationToken};
use tower::Service;
use tracing::debug;

use super::{
    Settings,
    connection::{ClientIo, Connection, Socket},
    response_body::ServedBody,
};

/// The byte stream that carries HTTP.
type Transport = Either<ClientIo, TlsStream<ClientIo>>;

/// Serves `connection` until the client ends it, until it is evicted or `shutdown` is cancelled and
/// the response is sent, or until `cut_off` is cancelled.
pub(super) async fn serve<S, B>(
    socket: Socket,
    connection: Connection,
    service: watch::Receiver<S>,
    settings: Arc<Settings>,
    shutdown: CancellationToken,
    cut_off: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body<Data = Bytes, Error = BoxError> + 'static,
{
    let io = ClientIo::new(socket, connection.clone(), settings.write_timeout);
    let uninterrupted = async {
        let transport = match &settings.tls {
            None => Some(Either::Left(io)),
            Some(tls) => handshake(io, tls.clone(), &connection, &settings, &shutdown).await,
        };
        if let Some(transport) = transport {
            exchange(transport, &connection, service, &settings, &shutdown).await;
        }
    };
    let interrupted = async {
        cut_off.cancelled().await;
        // Here, and not below, the socket still exists to be reset.
        connection.reset_on_close();
    };
    tokio::select! {
        biased;
        () = uninterrupted => {}
        () = interrupted => {}
    }
}

/// The byte stream inside TLS; `None` if the handshake fails or takes too long.
async fn handshake(
    io: ClientIo,
    tls: Arc<ServerConfig>,
    connection: &Connection,
    settings: &Settings,
    shutdown: &CancellationToken,
) -> Option<Transport> {
    let accepted = tokio::select! {
        biased;
        accepted = TlsAcceptor::from(tls).accept(io) => accepted,
        // The time-outs of a first request head also apply to the handshake.
        () = connection.silent_too_long(settings) => return None,
        () = shutdown.cancelled() => return None,
        () = evicted(connection) => return None,
    };
    accepted
        .inspect_err(|error| debug!(%error, "TLS handshake failed"))
        .ok()
        .map(Either::Right)
}

/// Serves requests one after the other.
async fn exchange<S, B>(
    transport: Transport,
    connection: &Connection,
    service: watch::Receiver<S>,
    settings: &Settings,
    shutdown: &CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body<Data = Bytes, Error = BoxError> + 'static,
{
    let service = service_fn(|mut request: Request<Incoming>| {
        let guard = connection.begin_response();
        request.extensions_mut().insert(connection.clone());
        // The service is always ready.
        let mut service = service.borrow().clone();
        let response = service.call(request);
        async {
            let response = response.await?;
            Ok::<_, Infallible>(response.map(|body| ServedBody::new(body, guard)))
        }
    });
    let mut served = pin!(
        http1::Builder::new()
            // See `silent_too_long`.
            .header_read_timeout(None)
            // A connection over the limit closes after its 503.
            .keep_alive(!connection.is_over_limit())
            .max_buf_size(buffer_size(settings.max_head))
            // Joins small events that are ready into one write.
            .writev(false)
            .serve_connection(TokioIo::new(transport), service)
    );
    let outcome = tokio::select! {
        biased;
        outcome = served.as_mut() => Some(outcome),
        () = connection.silent_too_long(settings) => None,
        () = shutdown.cancelled() => None,
        () = evicted(connection) => None,
    };
    let outcome = match outcome {
        Some(outcome) => outcome,
        // A request that has arrived all the same is answered, and no other one is read.
        None => {
            connection.stop_reading();
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = outcome {
        debug!(%error, "Connection ended early");
    }
}

async fn evicted(connection: &Connection) {
    connection.evicted().await;
    debug!("Making room for another connection");
}

/// The size of hyper's buffers. A request head has to fit whole, also one that is a little too
/// large, so that the service can say why it is refused.
fn buffer_size(max_head: usize) -> usize {
    const SMALLEST: usize = 64 * 1024;
    max_head.saturating_mul(2).max(SMALLEST)
}
