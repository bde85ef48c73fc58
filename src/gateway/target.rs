//! What a request's target may look like.

use http::Uri;

/// Whether every upstream will read the same path as we do. Absolute form is for proxies; a client
/// that sends it takes us for one.
pub(super) fn is_plain(uri: &Uri) -> bool {
    let path = uri.path().as_bytes();
    if uri.authority().is_some() || path.first() != Some(&b'/') {
        return false;
    }
    // Nearly no path has anything that is worth a closer look.
    let is_odd = |pair: &[u8]| matches!(pair, [b'/', b'/' | b'.'] | [_, b'%' | b'\\']);
    !path.windows(2).any(is_odd) || is_plain_though_odd(path)
}

fn is_plain_though_odd(path: &[u8]) -> bool {
    if path.contains(&b'\\') {
        return false;
    }
    let mut segments = path[1..].split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        // A trailing slash makes an empty last segment, and that one is harmless.
        let is_empty = segment.is_empty() && segments.peek().is_some();
        if is_empty || hides_a_slash(segment) || is_dots(segment) {
            return false;
        }
    }
    true
}

/// Whether it holds an encoded slash or backslash, which some take for a plain one.
fn hides_a_slash(segment: &[u8]) -> bool {
    let mut rest = segment;
    while let Some(at) = rest.iter().position(|byte| *byte == b'%') {
        rest = &rest[at + 1..];
        let code = rest.get(..2).unwrap_or_default();
        if code.eq_ignore_ascii_case(b"2f") || code.eq_ignore_ascii_case(b"5c") {
            return true;
        }
    }
    false
}

/// Whether it is `.` or `..`, each dot plain or encoded.
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

    /// The same in as few words as may be, at the price of three copies.
    fn is_plain_by_definition(path: &str) -> bool {
        let path = path.to_ascii_lowercase();
        !["%2f", "%5c", "\\", "//"]
            .iter()
            .any(|it| path.contains(it))
            && !path
                .replace("%2e", ".")
                .split('/')
                .any(|segment| matches!(segment, "." | ".."))
    }

    proptest! {
        #[test]
        fn in_one_pass_as_by_definition(rest in "([.a%/]|%2[eEfF]|%5[cC]|%2){0,8}") {
            let path = format!("/{rest}");
            let uri = Uri::try_from(&path);
            prop_assume!(uri.is_ok());
            prop_assert_eq!(is_plain(&uri.unwrap()), is_plain_by_definition(&path), "{}", path);
        }
    }

    #[test]
    fn a_target_that_can_be_read_two_ways_is_not_plain() {
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
