//! The OAuth client's side of logins and token requests, for any provider.

pub mod device;
mod exchange;
mod form;
pub mod pkce;
pub mod refresh;
