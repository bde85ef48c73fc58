//! Counts the streams that are open at the upstream.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The open streams, by the number of their connection. Streams that wait in a gateway are not counted.
#[derive(Default)]
pub(crate) struct OpenStreams(Mutex<BTreeMap<usize, usize>>);

/// A stream; counted until it is dropped.
pub(super) struct OpenStream {
    open_streams: Arc<OpenStreams>,
    connection: usize,
}

// === impl OpenStreams ===

impl OpenStreams {
    /// The number of open streams.
    pub(crate) fn streams(&self) -> usize {
        self.lock().values().sum()
    }

    /// The number of connections with open streams.
    pub(crate) fn connections(&self) -> usize {
        self.lock().len()
    }

    /// Counts a stream of `connection`.
    pub(super) fn open(self: &Arc<Self>, connection: usize) -> OpenStream {
        *self.lock().entry(connection).or_default() += 1;
        OpenStream {
            open_streams: Arc::clone(self),
            connection,
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<usize, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl OpenStream ===

impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut open_streams = self.open_streams.lock();
        if let Some(streams) = open_streams.get_mut(&self.connection) {
            *streams -= 1;
            if *streams == 0 {
                open_streams.remove(&self.connection);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_streams_and_the_connections_that_have_any() {
        let open_streams = Arc::new(OpenStreams::default());
        let first = [open_streams.open(1), open_streams.open(1)];
        let second = open_streams.open(2);
        assert_eq!((open_streams.streams(), open_streams.connections()), (3, 2));
        drop(second);
        assert_eq!((open_streams.streams(), open_streams.connections()), (2, 1));
        drop(first);
        assert_eq!((open_streams.streams(), open_streams.connections()), (0, 0));
    }
}
