//! An API key as a token source.

use pacegate_layers::token::StaticToken;
use secrecy::ExposeSecret;

use crate::config::ApiKey;

/// A key that cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum ApiKeyError {
    /// The reference points at nothing.
    #[error("the API key from {reference} is empty; put the provider's key there")]
    Empty {
        /// The reference as written in the config.
        reference: String,
    },
    /// It holds characters that no header carries, such as a line break.
    #[error(
        "the API key from {reference} has characters that an HTTP header cannot carry; it must be \
         the key alone, on one line"
    )]
    Unsendable {
        /// The reference as written in the config.
        reference: String,
    },
}

/// A source that always gives `key`, without the white space around it: a key file usually ends
/// with a line break.
///
/// # Errors
///
/// [`ApiKeyError`] if nothing is left or if it cannot stand in a header; the key is not shown.
pub fn api_key(key: &ApiKey) -> Result<StaticToken, ApiKeyError> {
    let reference = || key.reference.clone();
    let trimmed = key.key.expose_secret().trim();
    if trimmed.is_empty() {
        return Err(ApiKeyError::Empty {
            reference: reference(),
        });
    }
    StaticToken::new(trimmed).map_err(|_| ApiKeyError::Unsendable {
        reference: reference(),
    })
}

#[cfg(test)]
mod tests {
    use pacegate_layers::token::TokenSource;

    use super::*;

    fn key(key: &str) -> ApiKey {
        ApiKey {
            key: key.into(),
            reference: "file /run/key".to_owned(),
        }
    }

    #[tokio::test]
    async fn gives_the_key_without_the_line_break_of_its_file() {
        let token = api_key(&key("sk-1\n")).unwrap().token().await.unwrap();
        assert_eq!(token.header(), "Bearer sk-1");
    }

    #[test]
    fn names_the_reference_and_not_the_key_when_it_cannot_be_sent() {
        let error = api_key(&key("canary\nsk-2")).unwrap_err().to_string();
        assert!(
            error.contains("file /run/key") && !error.contains("canary"),
            "{error}"
        );
        assert!(matches!(
            api_key(&key(" \n")),
            Err(ApiKeyError::Empty { .. })
        ));
    }
}
