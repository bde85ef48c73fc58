//! The top-level keys: how clients reach pacegate, and how it runs.

use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf};

use http::Uri;
use secrecy::ExposeSecret;

use super::{
    Config, Listen, ListenTls,
    cursor::{Cursor, Secrets},
    expand, limits, log,
    provenance::Provenance,
    secret::{self, Secret},
    units, upstream,
};

/// More threads than any machine has cores.
const MOST_WORKERS: usize = 1024;

/// Reads the whole configuration.
pub(super) fn config(cursor: &Cursor<'_>) -> Option<Config> {
    let mut table = cursor.table()?;
    let listen_at = table.required("listen");
    let listen = listen_at.as_ref().and_then(listen);
    let listen_tls = table.optional_with("listen-tls", |at| listen_tls(at, listen.as_ref()));
    let keys = table
        .required("client-keys")
        .and_then(|keys| keys.list(|key| Some((key.clone(), secret::read(key)?))));
    if let (Some(at), Some(listen), Some(keys)) = (&listen_at, &listen, &keys) {
        check_keys(at, listen, keys);
    }
    let allowed_hosts = table
        .required("allowed-hosts")
        .and_then(|hosts| hosts.list(host));
    let allowed_origins = table
        .required("allowed-origins")
        .and_then(|origins| origins.list(web_origin));
    let max_body = table
        .required("max-body")
        .and_then(|size| size.parse("a size with its unit", "32MiB", units::size));
    let limits_at = table.required("limits");
    let limits = limits_at.as_ref().and_then(limits::read);
    if let (Some(at), Some(limits), Some(max_body)) = (&limits_at, &limits, max_body)
        && limits.max_bodies < max_body
    {
        at.note(
            "max-bodies is less than max-body, so the largest body could never come in",
            "raise limits.max-bodies, or lower max-body",
        );
    }
    let drain_timeout = table
        .required("drain-timeout")
        .and_then(|time| time.duration());
    let workers = table
        .required("workers")
        .and_then(|workers| NonZeroUsize::new(workers.integer(1, MOST_WORKERS)?));
    let state_dir = table.required("state-dir").and_then(|at| state_dir(&at));
    let log = table.required("log").and_then(|at| log::log(&at));
    let upstreams = table
        .required("upstream")
        .and_then(|at| upstream::read(&at));
    table.finish();

    Some(Config {
        listen: listen?,
        listen_tls: listen_tls?,
        client_keys: keys?.into_iter().map(|(_, key)| key.value).collect(),
        allowed_hosts: allowed_hosts?,
        allowed_origins: allowed_origins?,
        max_body: max_body?,
        limits: limits?,
        drain_timeout: drain_timeout?,
        workers: workers?,
        state_dir: state_dir?,
        log: log?,
        upstreams: upstreams?,
    })
}

fn listen(cursor: &Cursor<'_>) -> Option<Listen> {
    if let Some(path) = cursor.str()?.strip_prefix("unix:") {
        if path.is_empty() {
            return cursor.expected("a path after unix:", "write \"unix:/run/pacegate.sock\"");
        }
        return cursor.path(path).map(Listen::Unix);
    }
    cursor
        .parse(
            "an IP address and a port, or unix: and a path",
            "127.0.0.1:7223",
            |text| text.parse::<SocketAddr>().ok(),
        )
        .map(Listen::Tcp)
}

fn listen_tls(cursor: &Cursor<'_>, listen: Option<&Listen>) -> Option<ListenTls> {
    if let Some(Listen::Unix(_)) = listen {
        return cursor.refuse(
            "a Unix socket has no TLS",
            "delete it: what goes over the socket does not leave this machine",
        );
    }
    let mut table = cursor.table()?;
    let cert_file = table.required("cert-file").and_then(|file| file.file());
    let key_file = table.required("key-file").and_then(|file| file.file());
    table.finish();
    Some(ListenTls {
        cert_file: cert_file?,
        key_file: key_file?,
    })
}

/// Clients that can connect can spend the account. On an address that other machines can reach,
/// only an unguessable key keeps strangers out.
fn check_keys(at: &Cursor<'_>, listen: &Listen, keys: &[(Cursor<'_>, Secret)]) {
    /// The command makes a key of 256 bits.
    const MAKE_ONE: &str = "make one with: openssl rand -hex 32";
    let exposed = match listen {
        Listen::Tcp(address) => !address.ip().is_loopback(),
        Listen::Unix(_) => false,
    };
    if exposed && keys.is_empty() {
        at.note(
            "an address that other machines can reach needs a client key",
            format!(
                "set client-keys = [{{ env = \"PACEGATE_CLIENT_KEY\" }}], or listen on 127.0.0.1; \
                 {MAKE_ONE}"
            ),
        );
    }
    for (cursor, key) in keys {
        if cursor.scope.secrets == Secrets::Unresolved {
            continue;
        }
        let problem = if is_sample(key.value.expose_secret()) {
            "is a sample that everybody knows"
        } else if exposed && !has_128_bits(key.value.expose_secret()) {
            "has less than 128 bits, and other machines can reach the address"
        } else if exposed && is_guessable(key.value.expose_secret()) {
            "follows a pattern that can be guessed, and other machines can reach the address"
        } else {
            continue;
        };
        cursor.note(format!("the key in {} {problem}", key.reference), MAKE_ONE);
    }
}

/// Whether the key is a placeholder from a sample.
fn is_sample(key: &str) -> bool {
    const SAMPLES: [&str; 10] = [
        "apikey", "changeit", "changeme", "example", "key", "password", "sample", "secret", "test",
        "token",
    ];
    let mut word = key.to_ascii_lowercase();
    word.retain(|char| char.is_ascii_alphabetic());
    let stripped = word.strip_prefix("your").unwrap_or(&word);
    let one_character = key.chars().all(|char| key.starts_with(char));
    one_character || (key.len() < 22 && SAMPLES.contains(&stripped))
}

/// Whether a key was typed, not generated: it contains a word, repeats itself, has few characters,
/// or has neighbours of the alphabet side by side. This is true of one random key of 128 bits in
/// ten million.
fn is_guessable(key: &str) -> bool {
    const WORDS: [&str; 9] = [
        "changeit",
        "changeme",
        "change-me",
        "change_me",
        "example",
        "pacegate",
        "password",
        "placeholder",
        "secret",
    ];
    const FEWEST_CHARACTERS: usize = 8;
    let bytes = key.as_bytes();
    let lower = key.to_ascii_lowercase();
    let repeated = (1..=bytes.len() / 2).any(|period| {
        bytes
            .iter()
            .zip(&bytes[period..])
            .all(|(one, other)| one == other)
    });
    let distinct: std::collections::HashSet<_> = bytes.iter().collect();
    let in_a_row = bytes
        .windows(2)
        .filter(|pair| pair[0].abs_diff(pair[1]) <= 1)
        .count();
    repeated
        || distinct.len() < FEWEST_CHARACTERS
        || in_a_row * 2 > bytes.len()
        || WORDS.iter().any(|word| lower.contains(word))
}

/// Whether the key has 16 bytes: 32 hexadecimal digits or 22 of base64.
fn has_128_bits(key: &str) -> bool {
    let hexadecimal = key
        .bytes()
        .all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    let digits = key.bytes().filter(|byte| *byte != b'-').count();
    digits >= if hexadecimal { 32 } else { 22 }
}

fn host(cursor: &Cursor<'_>) -> Option<String> {
    cursor.parse("a host name without port or path", "pacegate.lan", |text| {
        let uri = text.parse::<http::uri::Authority>().ok()?;
        let plain = uri.port().is_none() && uri.host() == text;
        plain.then(|| text.to_ascii_lowercase())
    })
}

fn web_origin(cursor: &Cursor<'_>) -> Option<String> {
    cursor.parse(
        "an origin: scheme, host, perhaps a port, and no path",
        "https://app.example",
        |text| {
            let uri = text.parse::<Uri>().ok()?;
            let origin = format!("{}://{}", uri.scheme_str()?, uri.authority()?);
            // Browsers send it in lower case.
            origin
                .eq_ignore_ascii_case(text)
                .then(|| text.to_ascii_lowercase())
        },
    )
}

#[expect(
    clippy::option_option,
    reason = "without a place, and wrong, are different"
)]
fn state_dir(cursor: &Cursor<'_>) -> Option<Option<PathBuf>> {
    let without_home = *cursor.provenance() == Provenance::BuiltIn
        && expand::path(cursor.str()?, cursor.scope.env).is_err();
    // A container without a home directory needs no state directory unless something is saved
    // there.
    if without_home {
        return Some(None);
    }
    cursor.file().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_samples_and_short_keys() {
        for key in ["changeme", "Change-Me", "your-api-key", "secret123", "aaaa"] {
            assert!(is_sample(key), "{key}");
        }
        for key in [
            "changeme-changeme-changeme-changeme",
            "my-very-long-Secret-number-17-of-many",
            "0123456789abcdef0123456789abcdef",
            "abcdefghijklmnopqrstuvwxyz012345",
            "00000000000000001111111111111111",
            "qwertyuiopqwertyuiop",
            "pacegate-client-key-of-this-house",
        ] {
            assert!(is_guessable(key), "{key}");
        }
        for key in [
            "9f1c0b7ae35d48264ac1e7f09b6d2358",
            "k8Jq0sXw2vLr5TzY1uNbQe",
            "sk-7hQ2mZx9Lw4Rt6Vb1Nc8Kp3Ys5Df0Gj",
        ] {
            assert!(!is_guessable(key), "{key}");
        }
        assert!(!is_sample("k8Jq0sXw2v"));
        assert!(has_128_bits("00112233445566778899aabbccddeeff"));
        assert!(has_128_bits("k8Jq0sXw2vLr5TzY1uNbQe"));
        assert!(!has_128_bits("00112233445566778899aabbccddee"));
        assert!(!has_128_bits("k8Jq0sXw2vLr5TzY1uNbQ"));
    }
}
