//! Selects the service for a request: one of pacegate's own paths, or the upstream that the path or
//! the model names.
//!
//! In come requests that the edge has accepted, at the [local routes](local) before their bodies
//! are read and at the [`Router`] afterwards; out go local responses and those of upstreams. It
//! calls the [`upstreams`](crate::upstreams) and gets a request's parameters from the
//! [`api`](crate::api).

mod local;
mod router;

pub(crate) use self::{
    local::{Draining, LocalRoutesLayer, LocalTable, is_probe},
    router::{NoRoute, Route, Router},
};
