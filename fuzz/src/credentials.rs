//! The credentials file, which other programs write. Input: its content.

use std::{cell::OnceCell, fs, time::SystemTime};

use pacegate::credentials::store::{CredentialsFile, OAuthCredentials, ReadError};
use pacegate_layers::token::BearerToken;
use secrecy::ExposeSecret;
use tempfile::TempDir;

use super::input;

thread_local! {
    static FOLDER: OnceCell<TempDir> = const { OnceCell::new() };
}

/// A file that loads can be sent and is written back unchanged; no text shown contains a token.
pub fn run(input: &[u8]) {
    FOLDER.with(|folder| {
        let folder = folder.get_or_init(input::folder).path();
        let path = folder.join("oauth_creds.json");
        fs::write(&path, input).unwrap();
        let file = CredentialsFile::new(path);
        match file.read_once() {
            Ok(stored) => check(&file, &stored.credentials),
            Err(error) => assert!(matches!(error, ReadError::Malformed { .. }), "{error}"),
        }
    });
}

fn check(file: &CredentialsFile, read: &OAuthCredentials) {
    BearerToken::new(read.access_token.expose_secret(), 0).unwrap();
    let _life = read.valid_for(SystemTime::now());
    let shown = format!("{read:?}");
    let resource = read.resource_url.as_deref().unwrap_or_default();
    for token in [&read.access_token, &read.refresh_token] {
        // A short token may occur anywhere by chance, and the other fields may contain anything.
        let token = token.expose_secret();
        let elsewhere = read.token_type.contains(token) || resource.contains(token);
        assert!(
            token.len() < 16 || elsewhere || !shown.contains(token),
            "{shown}"
        );
    }
    // A write waits for the disk, so not for every input.
    if read.expiry_date.is_multiple_of(16) {
        file.write(read).unwrap();
        let again = file.read_once().unwrap().credentials;
        assert_eq!(fields(read), fields(&again));
    }
}

fn fields(of: &OAuthCredentials) -> (&str, &str, &str, Option<&str>, u64) {
    (
        of.access_token.expose_secret(),
        &of.token_type,
        of.refresh_token.expose_secret(),
        of.resource_url.as_deref(),
        of.expiry_date,
    )
}
