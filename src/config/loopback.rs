//! Hosts that are this machine.

use std::net::IpAddr;

/// Whether requests to `host`, a URL's with or without brackets, stay on this machine.
pub fn is_loopback_host(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || address
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_what_stays_on_this_machine() {
        for (host, here) in [
            ("localhost", true),
            ("LocalHost", true),
            ("127.9.9.9", true),
            ("[::1]", true),
            ("::1", true),
            ("localhost.evil.example", false),
            ("10.0.0.1", false),
            ("api.example", false),
            ("", false),
        ] {
            assert_eq!(is_loopback_host(host), here, "{host}");
        }
    }
}
