//! The content of a credentials file and its exact JSON.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use pacegate_layers::token::BearerToken;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

/// An access token, its refresh token and its expiry.
#[derive(Clone)]
pub struct OAuthCredentials {
    /// The token for `Authorization`.
    pub access_token: SecretString,
    /// `Bearer`, in the case that the server wrote it.
    pub token_type: String,
    /// Obtains the next access token; works once where tokens rotate. Empty where the provider
    /// issues none: then only a login brings the next access token.
    pub refresh_token: SecretString,
    /// The base URL at which the token may be used, as the server wrote it.
    pub resource_url: Option<String>,
    /// When the access token expires, in milliseconds since 1970.
    pub expiry_date: u64,
}

/// The file's keys, named and ordered as in the programs that share it. Unknown keys are dropped:
/// those programs drop them, too.
#[derive(Serialize)]
struct SerializedCredentials<'a> {
    access_token: &'a str,
    token_type: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    refresh_token: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_url: Option<&'a str>,
    expiry_date: u64,
}

#[derive(Deserialize)]
struct DeserializedCredentials {
    access_token: String,
    token_type: String,
    #[serde(default)]
    refresh_token: String,
    #[serde(default)]
    resource_url: Option<String>,
    expiry_date: f64,
}

// === impl OAuthCredentials ===

impl OAuthCredentials {
    /// Parses a file's content.
    ///
    /// # Errors
    ///
    /// A description of the problem. It is not serde's, which would quote the secret content.
    pub(super) fn parse(content: &[u8]) -> Result<Self, &'static str> {
        let read: DeserializedCredentials = serde_json::from_slice(content).map_err(|error| {
            if error.is_data() {
                "a field is missing or has the wrong type"
            } else {
                "it is empty or not JSON"
            }
        })?;
        if read.access_token.is_empty() || BearerToken::new(&read.access_token, 0).is_err() {
            return Err("its access_token is empty or cannot be sent in a header");
        }
        Ok(Self {
            access_token: read.access_token.into(),
            token_type: read.token_type,
            refresh_token: read.refresh_token.into(),
            resource_url: read.resource_url,
            // A JavaScript number. The cast saturates: an absurd value has expired or is far away.
            expiry_date: read.expiry_date as u64,
        })
    }

    /// The file's content: two-space JSON without a final line break.
    pub(super) fn to_json(&self) -> String {
        // Strings and a number always serialize.
        serde_json::to_string_pretty(&SerializedCredentials {
            access_token: self.access_token.expose_secret(),
            token_type: &self.token_type,
            refresh_token: self.refresh_token.expose_secret(),
            resource_url: self.resource_url.as_deref(),
            expiry_date: self.expiry_date,
        })
        .unwrap_or_default()
    }

    /// Whether there is a refresh token.
    pub fn can_be_refreshed(&self) -> bool {
        !self.refresh_token.expose_secret().is_empty()
    }

    /// When the access token expires.
    pub fn expiry(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
            .checked_add(Duration::from_millis(self.expiry_date))
            .unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// How long the access token still lives at `now`; zero once it has expired.
    pub fn valid_for(&self, now: SystemTime) -> Duration {
        self.expiry().duration_since(now).unwrap_or_default()
    }
}

impl fmt::Debug for OAuthCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuthCredentials")
            .field("token_type", &self.token_type)
            .field("resource_url", &self.resource_url)
            .field("expiry_date", &self.expiry_date)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials() -> OAuthCredentials {
        OAuthCredentials {
            access_token: "canary-access".into(),
            token_type: "Bearer".to_owned(),
            refresh_token: "canary-refresh".into(),
            resource_url: Some("portal.example".to_owned()),
            expiry_date: 1_700_000_000_000,
        }
    }

    #[test]
    fn debug_output_holds_no_part_of_a_token() {
        let shown = format!("{:?}", credentials());
        assert!(!shown.contains("canary"), "{shown}");
    }

    #[test]
    fn writes_two_space_json_in_the_shared_order_without_a_final_line_break() {
        assert_eq!(
            credentials().to_json(),
            "{\n  \"access_token\": \"canary-access\",\n  \"token_type\": \"Bearer\",\n  \
             \"refresh_token\": \"canary-refresh\",\n  \"resource_url\": \"portal.example\",\n  \
             \"expiry_date\": 1700000000000\n}"
        );
    }

    #[test]
    fn reads_what_it_wrote_with_and_without_a_resource_and_a_refresh_token() {
        for (resource_url, refresh_token) in [
            (None, "canary-refresh"),
            (Some("portal.example".to_owned()), "canary-refresh"),
            (None, ""),
        ] {
            let written = OAuthCredentials {
                resource_url,
                refresh_token: refresh_token.into(),
                ..credentials()
            };
            assert_eq!(written.can_be_refreshed(), !refresh_token.is_empty());
            assert_eq!(
                written.to_json().contains("refresh_token"),
                written.can_be_refreshed()
            );
            let read = OAuthCredentials::parse(written.to_json().as_bytes()).unwrap();
            assert_eq!(read.to_json(), written.to_json());
        }
    }

    #[test]
    fn no_prefix_of_a_file_is_taken_for_a_whole_one() {
        let json = credentials().to_json();
        for len in 0..json.len() {
            let error = OAuthCredentials::parse(&json.as_bytes()[..len]).unwrap_err();
            assert!(!error.contains("canary"));
        }
    }

    #[test]
    fn a_file_without_a_field_or_with_an_unsendable_token_is_refused() {
        let json = credentials().to_json();
        for (from, to) in [
            ("token_type", "other"),
            ("\"canary-refresh\"", "7"),
            ("1700000000000", "\"1700000000000\""),
            ("1700000000000", "null"),
            ("canary-access", ""),
            ("canary-access", "a\\nb"),
        ] {
            assert!(
                OAuthCredentials::parse(json.replace(from, to).as_bytes()).is_err(),
                "{from}"
            );
        }
    }
}
