//! What clients speak: the parameters that routing needs, errors, keep-alive, errors in a stream.
//!
//! In come request bodies and [`ErrorResponse`]s, out go parameters and bytes in the shape of the API
//! that was asked. One file an API; it calls nobody, and knows neither routes nor upstreams.

pub(crate) mod chat_completions;
mod error_response;
mod retry_words;

pub(crate) use self::error_response::{ErrorResponse, full, json_response};
#[cfg(test)]
pub(crate) use self::retry_words::RETRY_WORDS;
