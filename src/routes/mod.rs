//! Which upstream a request goes to, and the paths that pacegate answers itself.

pub(crate) mod router;
