//! The client side of OAuth: device logins and token refreshes, for any provider.

pub mod device;
mod exchange;
mod form;
pub mod pkce;
pub mod refresh;
