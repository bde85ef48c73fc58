//! Removes the words on which clients retry from the texts of final errors.

use std::borrow::Cow;

/// OpenCode looks for these words in the body of *any* 4xx and retries if it finds one. A path, a
/// size or a column can contain the digits by chance.
pub const RETRY_WORDS: [&str; 12] = [
    "429",
    "500",
    "502",
    "503",
    "504",
    "524",
    "529",
    "overloaded",
    "rate limit",
    "timeout",
    "too many requests",
    "try again later",
];

/// `text` with an ellipsis in place of each retry word.
pub(super) fn mask_retry_words(text: &str) -> Cow<'_, str> {
    let mut masked = Cow::Borrowed(text);
    for word in RETRY_WORDS {
        // ASCII only, so that indices in the copy are indices in the text.
        while let Some(at) = masked.to_ascii_lowercase().find(word) {
            masked.to_mut().replace_range(at..at + word.len(), "…");
        }
    }
    masked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_retry_words_and_nothing_else() {
        for (text, masked) in [
            ("line 1, column 1502", "line 1, column 1…"),
            ("/home/Müller429/Timeout/x", "/home/Müller…/…/x"),
            ("Rate Limit, 429429", "…, ……"),
            ("column 5 04, 42 9", "column 5 04, 42 9"),
        ] {
            assert_eq!(mask_retry_words(text), masked);
        }
    }
}
