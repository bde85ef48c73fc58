//! Tower layers that make HTTP requests acceptable to a rate-limited upstream and send them at the
//! right moment.

pub mod bearer_auth;
pub mod error;
pub mod header_align;
pub mod progress;
pub mod token;
pub mod token_refresh;

pub use self::{
    bearer_auth::BearerAuthLayer, header_align::HeaderAlignLayer, token_refresh::TokenRefreshLayer,
};
