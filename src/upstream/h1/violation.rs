//! What an upstream says that is not HTTP/1.1.

/// A rule that was broken; nothing that follows on the connection can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Violation {
    #[error("a chunk that does not end where its size says")]
    ChunkEnd,
    #[error("a chunk extension that is too long, or has a line end in it")]
    ChunkExtension,
    #[error("a chunk size that is not a number, or too large")]
    ChunkSize,
    #[error("a transfer coding other than chunked alone")]
    Coding,
    #[error("not a response head: {0}")]
    Head(httparse::Error),
    #[error("more interim responses than anybody has a use for")]
    Interim,
    #[error("a content-length that is not a number, or two that differ")]
    Length,
    #[error("both a content-length and a transfer coding")]
    LengthAndCoding,
    #[error("trailers that are too long, or not fields")]
    Trailers,
}
