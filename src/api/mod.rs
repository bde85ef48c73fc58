//! The APIs that clients use: parameters for routing, errors, keep-alive comments, errors in a
//! stream.
//!
//! In come request bodies and error responses, out go parameters, responses and events in the
//! shape of the API. It knows neither routes nor upstreams.
//!
//! Each API has a file of its own. Today there is one, chat completions, and every error response
//! takes its shape.

pub(crate) mod chat_completions;
mod error_response;
mod retry_words;

pub(crate) use self::error_response::{ErrorResponse, full, json_response};
pub use self::retry_words::RETRY_WORDS;
