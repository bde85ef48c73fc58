//! The OAuth client's side of token requests, for any provider.

mod form;
pub mod refresh;
