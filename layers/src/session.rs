//! On whose behalf a request is sent.
//!
//! Whoever takes requests in says in their [`RequestContext`](crate::context::RequestContext) whose they are;
//! [`JitterThrottle`](crate::JitterThrottleLayer) lets sessions take turns by it. Requests without
//! one count as one session.

use std::sync::Arc;

/// A client's session, and the one it works for if it is a sub-agent's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    id: Arc<str>,
    parent: Option<Arc<str>>,
}

impl Session {
    /// A session of its own.
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self {
            id: id.into(),
            parent: None,
        }
    }

    /// Makes it a sub-agent's session: its requests are sent in `parent`'s turns, after `parent`'s
    /// own.
    #[must_use]
    pub fn child_of(mut self, parent: impl Into<Arc<str>>) -> Self {
        self.parent = Some(parent.into());
        self
    }

    /// Its own name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whose turn it takes.
    pub(crate) fn turn(&self) -> &Arc<str> {
        self.parent.as_ref().unwrap_or(&self.id)
    }

    pub(crate) fn is_child(&self) -> bool {
        self.parent.is_some()
    }
}
