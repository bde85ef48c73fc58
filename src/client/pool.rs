//! Idle HTTP/1.1 connections to one origin, the latest on top.

use std::{collections::VecDeque, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::h1::H1Connection;

/// More than any preset sends at once, and enough for a repeated burst: a connection that was
/// closed too early costs a handshake. Further connections are closed.
const MAX_IDLE: usize = 256;

/// Older connections have usually been closed by the upstream, or silently forgotten by a NAT,
/// which would only show at the head time-out.
const MAX_IDLE_AGE: Duration = Duration::from_secs(90);

/// LIFO: reuses the most recent connection and lets the others expire.
#[derive(Default)]
pub(super) struct Pool(Mutex<VecDeque<Idle>>);

struct Idle {
    connection: Box<H1Connection>,
    since: Instant,
}

// === impl Pool ===

impl Pool {
    /// The most recently used connection; the upstream may have closed it since.
    pub(super) fn take(&self) -> Option<Box<H1Connection>> {
        let mut stack = self.0.lock();
        drop_expired(&mut stack, Instant::now());
        stack.pop_back().map(|idle| idle.connection)
    }

    /// Stores a connection that is ready for another request.
    pub(super) fn put(&self, connection: Box<H1Connection>) {
        let since = Instant::now();
        let mut stack = self.0.lock();
        drop_expired(&mut stack, since);
        if stack.len() == MAX_IDLE {
            stack.pop_front();
        }
        stack.push_back(Idle { connection, since });
    }

    pub(super) fn len(&self) -> usize {
        let mut stack = self.0.lock();
        drop_expired(&mut stack, Instant::now());
        stack.len()
    }
}

/// The oldest connection is at the bottom of the stack.
fn drop_expired(stack: &mut VecDeque<Idle>, now: Instant) {
    while stack
        .front()
        .is_some_and(|idle| now.duration_since(idle.since) > MAX_IDLE_AGE)
    {
        stack.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use hyper_util::rt::TokioIo;
    use tokio::{
        net::{TcpListener, TcpStream},
        time::{advance, pause},
    };

    use super::*;
    use crate::client::{connections::ConnectionGuard, connector::UpstreamStream};

    /// Connections whose other ends are closed; the pool does not check.
    async fn connections(number: usize, open: &Arc<AtomicUsize>) -> Vec<Box<H1Connection>> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut connections = Vec::new();
        for _ in 0..number {
            let tcp = TcpStream::connect(listener.local_addr().unwrap());
            let (tcp, peer) = tokio::join!(tcp, listener.accept());
            peer.unwrap();
            let stream = UpstreamStream::Http(TokioIo::new(tcp.unwrap()));
            let connection = H1Connection::new(stream, 1024, ConnectionGuard::new(open)).await;
            connections.push(connection.unwrap());
        }
        connections
    }

    #[tokio::test]
    async fn the_latest_connection_goes_first_and_expired_ones_are_closed() {
        let open = Arc::default();
        let [oldest, old, fresh] = connections(3, &open).await.try_into().ok().unwrap();
        let (address, pool) = (&raw const *fresh, Pool::default());
        pause();
        pool.put(oldest);
        pool.put(old);
        advance(MAX_IDLE_AGE / 2).await;
        pool.put(fresh);
        advance(MAX_IDLE_AGE / 2).await;
        assert_eq!(pool.len(), 3, "as old as may be");
        advance(Duration::from_millis(1)).await;
        assert_eq!((pool.len(), open.load(Ordering::Relaxed)), (1, 1));

        let fresh = pool.take().unwrap();
        assert_eq!(&raw const *fresh, address);
        assert!(pool.take().is_none());
        pool.put(fresh);
        advance(MAX_IDLE_AGE + Duration::from_millis(1)).await;
        assert!(pool.take().is_none());
        assert_eq!(open.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn over_the_limit_the_oldest_connection_is_closed() {
        crate::process::raise_descriptor_limit().unwrap();
        let (open, pool) = (Arc::default(), Pool::default());
        let mut all = connections(MAX_IDLE + 1, &open).await;
        let oldest = &raw const *all[0];
        all.drain(..).for_each(|connection| pool.put(connection));
        assert_eq!(
            (pool.len(), open.load(Ordering::Relaxed)),
            (MAX_IDLE, MAX_IDLE)
        );
        while let Some(connection) = pool.take() {
            assert_ne!(&raw const *connection, oldest);
        }
    }
}
