//! Which request targets are accepted.

use http::Uri;

/// Whether every upstream reads the same path as pacegate. Absolute form is for proxies; a client
/// that sends it takes pacegate for one.
pub(super) fn is_plain(uri: &Uri) -> bool {
    let path = uri.path();
    if uri.authority().is_some() || !path.starts_with('/') || !path.bytes().all(is_allowed) {
        return false;
    }
    let mut segments = path.as_bytes()[1..].split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        // A trailing slash makes an empty last segment, which is harmless.
        let is_empty = segment.is_empty() && segments.peek().is_some();
        if is_empty || !has_valid_escapes(segment) || is_dots(segment) {
            return false;
        }
    }
    true
}

/// Bytes that a path may contain unescaped by [RFC 3986 §3.3], `/` and `%` included.
///
/// [RFC 3986 §3.3]: https://www.rfc-editor.org/rfc/rfc3986#section-3.3
fn is_allowed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%".contains(&byte)
}

/// Whether each escape is two hexadecimal digits and none encodes a slash or a backslash, which
/// some servers read as a plain one.
fn has_valid_escapes(segment: &[u8]) -> bool {
    let mut rest = segment;
    while let Some(at) = rest.iter().position(|byte| *byte == b'%') {
        rest = &rest[at + 1..];
        let code = rest.get(..2).unwrap_or_default();
        let is_hex = code.len() == 2 && code.iter().all(u8::is_ascii_hexdigit);
        if !is_hex || code.eq_ignore_ascii_case(b"2f") || code.eq_ignore_ascii_case(b"5c") {
            return false;
        }
    }
    true
}

/// Whether `segment` is `.` or `..`, each dot plain or encoded.
fn is_dots(mut segment: &[u8]) -> bool {
    let mut dots = 0;
    while let Some(first) = segment.first() {
        segment = match *first {
            b'.' => &segment[1..],
            b'%' if segment.len() >= 3 && segment[1..3].eq_ignore_ascii_case(b"2e") => {
                &segment[3..]
            }
            _ => return false,
        };
        dots += 1;
    }
    matches!(dots, 1 | 2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same check in as few words as possible, at the price of three copies.
    fn is_plain_by_definition(path: &str) -> bool {
        let path = path.to_ascii_lowercase();
        let escapes_are_whole = path.split('%').skip(1).all(|rest| {
            let code = rest.as_bytes().get(..2);
            code.is_some_and(|code| code.iter().all(u8::is_ascii_hexdigit))
        });
        escapes_are_whole
            && !["%2f", "%5c", "\\", "//"]
                .iter()
                .any(|it| path.contains(it))
            && !path
                .replace("%2e", ".")
                .split('/')
                .any(|segment| matches!(segment, "." | ".."))
    }

    proptest! {
        #[test]
        fn the_single_pass_agrees_with_the_definition(rest in "([.a%/]|%2[eEfF]|%5[cC]|%2){0,8}") {
            let path = format!("/{rest}");
            let uri = Uri::try_from(&path);
            prop_assume!(uri.is_ok());
            prop_assert_eq!(is_plain(&uri.unwrap()), is_plain_by_definition(&path), "{}", path);
        }
    }

    #[test]
    fn an_ambiguous_target_is_not_plain() {
        for target in [
            "/v1/../admin",
            "/v1/./x",
            "/v1/%2e%2e/x",
            "/v1/%2E./x",
            "/v1/a%2fb",
            "/v1/a%5Cb",
            "/v1//x",
            "/v1/x//",
            "//v1/x",
            "/u/n//v1/x",
            "http://evil.example/v1/models",
            "http://localhost/v1/models",
            "localhost:80",
            "*",
            "/v1/%zz",
            "/v1/x%2",
            "/v1/{x}",
            "/v1/\"x",
        ] {
            assert!(!is_plain(&Uri::from_static(target)), "{target}");
        }
        for target in [
            "/v1/models",
            "/v1/x/",
            "/v1/a.b",
            "/v1/..a",
            "/v1/x?y=..//z",
            "/",
        ] {
            assert!(is_plain(&Uri::from_static(target)), "{target}");
        }
    }
}
