//! Which streams are open at the upstream at once.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The streams that are held open, by the number of their connection. It is the upstream that counts:
/// what waits in a queue of the gateway is not among them.
#[derive(Default)]
pub(crate) struct Held(Mutex<BTreeMap<usize, usize>>);

/// A stream; counted while it lives.
pub(super) struct Hold {
    held: Arc<Held>,
    connection: usize,
}

// === impl Held ===

impl Held {
    /// How many streams there are now.
    pub(crate) fn streams(&self) -> usize {
        self.lock().values().sum()
    }

    /// How many connections they share.
    pub(crate) fn connections(&self) -> usize {
        self.lock().len()
    }

    /// Counts one more.
    pub(super) fn open(self: &Arc<Self>, connection: usize) -> Hold {
        *self.lock().entry(connection).or_default() += 1;
        Hold {
            held: Arc::clone(self),
            connection,
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<usize, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Hold ===

impl Drop for Hold {
    fn drop(&mut self) {
        let mut held = self.held.lock();
        if let Some(streams) = held.get_mut(&self.connection) {
            *streams -= 1;
            if *streams == 0 {
                held.remove(&self.connection);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_streams_and_the_connections_that_have_any() {
        let held = Arc::new(Held::default());
        let first = [held.open(1), held.open(1)];
        let second = held.open(2);
        assert_eq!((held.streams(), held.connections()), (3, 2));
        drop(second);
        assert_eq!((held.streams(), held.connections()), (2, 1));
        drop(first);
        assert_eq!((held.streams(), held.connections()), (0, 0));
    }
}
