//! A connection that is kept for one request.

use std::{sync::Arc, task::Context};

use super::{connections::Connected, endpoint::Endpoint};

/// A connection on which a request can be written at once. Dropping it gives the connection back.
pub(super) struct Reservation {
    pub(super) endpoint: Arc<Endpoint>,
    /// None once it is taken.
    connection: Option<Connected>,
}

// === impl Reservation ===

impl Reservation {
    pub(super) fn new(endpoint: Arc<Endpoint>, connection: Connected) -> Self {
        Self {
            endpoint,
            connection: Some(connection),
        }
    }

    /// Whether a request can still be written. `cx` is woken when the upstream closes an HTTP/1.1
    /// connection.
    pub(super) fn poll_usable(&mut self, cx: &mut Context<'_>) -> bool {
        let is_usable = match &mut self.connection {
            Some(Connected::H1(connection)) => connection.poll_usable(cx),
            Some(Connected::H2(stream)) => stream.is_usable(),
            None => false,
        };
        if !is_usable {
            // It serves no other request either.
            self.connection = None;
        }
        is_usable
    }

    pub(super) fn into_connection(mut self) -> Option<Connected> {
        self.connection.take()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(Connected::H1(connection)) = self.connection.take() {
            self.endpoint.connections.idle.put(connection);
        }
    }
}
