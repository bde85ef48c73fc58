//! Where a request goes: to one of pacegate's own paths, or to the upstream that its path or its model
//! names.
//!
//! In come requests that the edge has let pass, the [local routes](local) before their bodies are read and
//! [`Router`] after; out go a local response or that of an upstream's service. It calls the
//! [`upstreams`](crate::upstreams) and asks the [`api`](crate::api) for a request's parameters.

mod local;
mod path;
mod router;

pub(crate) use self::{
    local::{Draining, LocalRoutesLayer, LocalTable, is_probe},
    path::NoRoute,
    router::{Route, Router},
};
