//! Tower layers that make requests acceptable to a rate-limited upstream and send them at the
//! right moment.

pub mod error;
pub mod progress;
pub mod token;
