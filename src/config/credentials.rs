//! `credentials`: the source of an upstream's token.

use http::{Uri, uri::Scheme};

use super::{
    ApiKey, Credentials, OAuth,
    cursor::{Cursor, TableReader},
    header_align,
    loopback::is_loopback_host,
    secret,
};

#[derive(Clone, Copy)]
enum CredentialsKind {
    ApiKey,
    None,
    OAuth,
}

/// Reads the table.
pub(super) fn read(cursor: &Cursor<'_>) -> Option<Credentials> {
    let mut table = cursor.table()?;
    let kind = table.required("kind").and_then(|kind| {
        kind.choice(&[
            ("api-key", CredentialsKind::ApiKey),
            ("none", CredentialsKind::None),
            ("oauth", CredentialsKind::OAuth),
        ])
    })?;
    let credentials = match kind {
        CredentialsKind::ApiKey => table
            .required("key")
            .and_then(|key| secret::read(&key))
            .map(|secret| {
                Credentials::ApiKey(ApiKey {
                    key: secret.value,
                    problem: secret.problem,
                    file: secret.file,
                    reference: secret.reference,
                })
            }),
        CredentialsKind::None => Some(Credentials::None),
        CredentialsKind::OAuth => {
            oauth(&mut table).map(|oauth| Credentials::OAuth(Box::new(oauth)))
        }
    };
    table.finish();
    credentials
}

fn oauth(table: &mut TableReader<'_>) -> Option<OAuth> {
    let file = table.required("file").and_then(|file| file.file());
    let device_code_url = table
        .required("device-code-url")
        .and_then(|url| endpoint(&url));
    let token_url = table.required("token-url").and_then(|url| endpoint(&url));
    let client_id = table.required("client-id").and_then(|id| id.string());
    let scope = table.required("scope").and_then(|scope| scope.string());
    let resource_hosts = table
        .required("resource-hosts")
        .and_then(|hosts| hosts.strings());
    let headers = table.optional_with("headers", |headers| {
        headers.list(header_align::endpoint_field)
    });
    Some(OAuth {
        file: file?,
        device_code_url: device_code_url?,
        token_url: token_url?,
        client_id: client_id?,
        scope: scope?,
        resource_hosts: resource_hosts?,
        headers: headers?.unwrap_or_default(),
    })
}

/// The URL of an endpoint that receives tokens: https, or http on this machine.
fn endpoint(cursor: &Cursor<'_>) -> Option<Uri> {
    let uri = url(cursor)?;
    if uri.scheme() == Some(&Scheme::HTTP) && !is_loopback_host(uri.host().unwrap_or_default()) {
        return cursor.expected(
            "https, since tokens go there",
            "write https://; http is only for this machine",
        );
    }
    Some(uri)
}

/// An `http` or `https` URL without user, password and fragment.
pub(super) fn url(cursor: &Cursor<'_>) -> Option<Uri> {
    let text = cursor.str()?;
    if text.contains('@') {
        // The text is not shown: it may contain a password.
        return cursor.refuse(
            "a URL with a user or password",
            "delete what stands before the @; secrets belong into credentials",
        );
    }
    cursor.parse("an http or https URL", "https://host/v1", |text| {
        let uri = text.parse::<Uri>().ok()?;
        let known = [&Scheme::HTTP, &Scheme::HTTPS].contains(&uri.scheme()?);
        let named = uri.host().is_some_and(|host| !host.is_empty());
        (known && named && !text.contains('#')).then_some(uri)
    })
}
