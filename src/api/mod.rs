//! What clients speak and understand.

pub(crate) mod retry_words;
