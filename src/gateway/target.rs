//! What a request's target may look like.

use http::Uri;

/// Whether every upstream will read the same path as we do. Absolute form is for proxies; a client
/// that sends it takes us for one.
pub(super) fn is_plain(uri: &Uri) -> bool {
    let path = uri.path();
    let lower = path.to_ascii_lowercase();
    uri.authority().is_none()
        && path.starts_with('/')
        && !["%2f", "%5c", "\\"].iter().any(|part| lower.contains(part))
        // A trailing slash makes an empty last segment, and that one is harmless.
        && !path.contains("//")
        && !lower
            .replace("%2e", ".")
            .split('/')
            .any(|segment| matches!(segment, "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

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
