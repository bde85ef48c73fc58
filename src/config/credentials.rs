//! Where an upstream's token comes from.

use http::{Uri, uri::Scheme};

use super::{
    ApiKey, Credentials, OAuth,
    cursor::{Cursor, Fields},
    header_align, secret,
};

#[derive(Clone, Copy)]
enum Kind {
    ApiKey,
    None,
    OAuth,
}

/// Reads the table.
pub(super) fn read(cursor: &Cursor<'_>) -> Option<Credentials> {
    let mut fields = cursor.fields()?;
    let kind = fields.required("kind").and_then(|kind| {
        kind.choice(&[
            ("api-key", Kind::ApiKey),
            ("none", Kind::None),
            ("oauth", Kind::OAuth),
        ])
    })?;
    let credentials = match kind {
        Kind::ApiKey => fields
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
        Kind::None => Some(Credentials::None),
        Kind::OAuth => oauth(&mut fields).map(|oauth| Credentials::OAuth(Box::new(oauth))),
    };
    fields.finish();
    credentials
}

fn oauth(fields: &mut Fields<'_>) -> Option<OAuth> {
    let file = fields.required("file").and_then(|file| file.file());
    let device_code_url = fields
        .required("device-code-url")
        .and_then(|url| endpoint(&url));
    let token_url = fields.required("token-url").and_then(|url| endpoint(&url));
    let client_id = fields.required("client-id").and_then(|id| id.string());
    let scope = fields.required("scope").and_then(|scope| scope.string());
    let resource_hosts = fields
        .required("resource-hosts")
        .and_then(|hosts| hosts.strings());
    let headers = fields.maybe("headers", |headers| {
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

/// Tokens go there: nobody on the way may read them.
fn endpoint(cursor: &Cursor<'_>) -> Option<Uri> {
    let uri = url(cursor)?;
    if uri.scheme() == Some(&Scheme::HTTP) && !is_loopback(&uri) {
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
        // A password may stand there: the text isn't shown.
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

/// Whether what is sent to `uri` stays on this machine.
pub(super) fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || address
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_what_stays_on_this_machine() {
        for (url, here) in [
            ("http://localhost:1/x", true),
            ("http://127.9.9.9/", true),
            ("http://[::1]:8000/v1", true),
            ("http://localhost.evil.example/", false),
            ("http://10.0.0.1/", false),
            ("https://api.example/", false),
        ] {
            assert_eq!(is_loopback(&url.parse().unwrap()), here, "{url}");
        }
    }
}
