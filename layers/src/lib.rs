//! Tower layers that make HTTP requests acceptable to a rate-limited upstream and send them at the
//! right moment.

pub mod bearer_auth;
pub mod cooldown;
pub mod error;
pub mod header_align;
pub mod jitter_throttle;
pub mod progress;
pub mod token;
pub mod token_refresh;

pub use self::{
    bearer_auth::BearerAuthLayer, header_align::HeaderAlignLayer,
    jitter_throttle::JitterThrottleLayer, token_refresh::TokenRefreshLayer,
};
