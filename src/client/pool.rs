//! The idle HTTP/1.1 connections to one origin.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    h1::H1Connection,
    last_use::{LastUse, MAX_IDLE},
};

/// More than any preset sends at once, and enough for a repeated burst: a connection that was
/// closed too early costs a handshake. Further connections are closed.
const MAX_CONNECTIONS: usize = 256;

/// LIFO: reuses the most recent connection and lets the others expire.
pub(super) struct Pool {
    /// In the order of their last use.
    idle: Mutex<VecDeque<Box<H1Connection>>>,
    /// Wakes a request that waits for a connection.
    changed: Arc<Notify>,
}

// === impl Pool ===

impl Pool {
    pub(super) fn new(changed: Arc<Notify>) -> Self {
        Self {
            idle: Mutex::default(),
            changed,
        }
    }

    /// The most recently used connection; the upstream may have closed it since.
    pub(super) fn take(&self) -> Option<Box<H1Connection>> {
        let mut idle = self.idle.lock();
        if idle.is_empty() {
            return None;
        }
        let now = LastUse::now();
        drop_expired(&mut idle, &now);
        loop {
            let connection = idle.pop_back()?;
            if connection.may_be_used(&now) {
                return Some(connection);
            }
        }
    }

    /// Stores a connection that is ready for a request.
    pub(super) fn put(&self, connection: Box<H1Connection>) {
        let mut idle = self.idle.lock();
        drop_expired(&mut idle, &LastUse::now());
        if idle.len() == MAX_CONNECTIONS {
            idle.pop_front();
        }
        let place = idle.partition_point(|other| other.last_use <= connection.last_use);
        idle.insert(place, connection);
        drop(idle);
        self.changed.notify_one();
    }

    pub(super) fn len(&self) -> usize {
        let mut idle = self.idle.lock();
        drop_expired(&mut idle, &LastUse::now());
        idle.len()
    }
}

fn drop_expired(idle: &mut VecDeque<Box<H1Connection>>, now: &LastUse) {
    while idle
        .front()
        .is_some_and(|oldest| !oldest.last_use.allows(MAX_IDLE, now))
    {
        idle.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        time::Duration,
    };

    use hyper_util::rt::TokioIo;
    use tokio::{
        net::{TcpListener, TcpStream},
        time::{Instant, advance, pause},
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
            let guard = ConnectionGuard::new(open);
            let connection = H1Connection::new(stream, 1024, Instant::now(), guard).await;
            connections.push(connection.unwrap());
        }
        connections
    }

    #[tokio::test]
    async fn the_latest_connection_goes_first_and_expired_ones_are_closed() {
        let open = Arc::default();
        pause();
        let mut all = connections(2, &open).await;
        let pool = Pool::new(Arc::default());
        all.drain(..).for_each(|connection| pool.put(connection));
        advance(MAX_IDLE / 2).await;
        let fresh = connections(1, &open).await.remove(0);
        let address = &raw const *fresh;
        pool.put(fresh);
        advance(MAX_IDLE / 2).await;
        assert_eq!(pool.len(), 3, "as old as may be");
        advance(Duration::from_millis(1)).await;
        assert_eq!((pool.len(), open.load(Ordering::Relaxed)), (1, 1));

        let fresh = pool.take().unwrap();
        assert_eq!(&raw const *fresh, address);
        assert!(pool.take().is_none());
        // It was not used, so it is as old as before.
        pool.put(fresh);
        advance(MAX_IDLE / 2 + Duration::from_millis(1)).await;
        assert!(pool.take().is_none());
        assert_eq!(open.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn one_that_is_given_back_unused_keeps_its_place() {
        let open = Arc::default();
        pause();
        let pool = Pool::new(Arc::default());
        let mut all = Vec::new();
        for _ in 0..2 {
            all.append(&mut connections(1, &open).await);
            advance(Duration::from_secs(1)).await;
        }
        let addresses: Vec<_> = all
            .iter()
            .map(|connection| &raw const **connection)
            .collect();
        all.into_iter()
            .rev()
            .for_each(|connection| pool.put(connection));
        for address in addresses.into_iter().rev() {
            assert_eq!(&raw const *pool.take().unwrap(), address);
        }
    }

    #[tokio::test]
    async fn a_connection_is_given_up_a_second_before_the_upstream_closes_it() {
        let open = Arc::default();
        pause();
        let pool = Pool::new(Arc::default());
        for (announced, usable_for) in [("timeout=5", 4), ("timeout=1", 0), ("timeout=3600", 60)] {
            let mut headers = http::HeaderMap::new();
            headers.insert("keep-alive", announced.parse().unwrap());
            for (age, is_usable) in [(0, usable_for > 0), (1, false)] {
                let mut connection = connections(1, &open).await.remove(0);
                connection.read_keep_alive(&headers);
                pool.put(connection);
                let age = Duration::from_millis(age);
                advance(Duration::from_secs(usable_for) + age).await;
                let is_there = pool.take().is_some();
                assert_eq!(is_there, is_usable || age.is_zero(), "{announced} {age:?}");
            }
        }
    }

    #[tokio::test]
    async fn over_the_limit_the_oldest_connection_is_closed() {
        crate::process::raise_descriptor_limit().unwrap();
        let (open, pool) = (Arc::default(), Pool::new(Arc::default()));
        let mut all = connections(MAX_CONNECTIONS + 1, &open).await;
        let oldest = &raw const *all[0];
        all.drain(..).for_each(|connection| pool.put(connection));
        assert_eq!(
            (pool.len(), open.load(Ordering::Relaxed)),
            (MAX_CONNECTIONS, MAX_CONNECTIONS)
        );
        while let Some(connection) = pool.take() {
            assert_ne!(&raw const *connection, oldest);
        }
    }
}
