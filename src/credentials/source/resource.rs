//! The base URL that comes with a token.

use http::{Uri, uri::Scheme};

use crate::config::is_loopback_host;

/// Why a `resource_url` must not be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ResourceUrlError {
    #[error("its host is not one of the allowed resource-hosts")]
    Host,
    #[error("it is not an http(s) URL of a host and a path")]
    NotUrl,
    #[error("it would send the token unencrypted")]
    Unencrypted,
}

/// The base URL of `resource`: `https://` and `/v1` are added where missing, and a slash at the end
/// is dropped.
///
/// # Errors
///
/// [`ResourceUrlError`] if its host is not in `hosts`, among others: a program that can change the
/// file must not be able to redirect the token.
pub(super) fn base_url(resource: &str, hosts: &[String]) -> Result<Uri, ResourceUrlError> {
    let resource = resource.trim().trim_end_matches('/');
    let mut url = if resource.contains("://") {
        resource.to_owned()
    } else {
        format!("https://{resource}")
    };
    if !url.ends_with("/v1") {
        url.push_str("/v1");
    }
    let url = url.parse::<Uri>().map_err(|_| ResourceUrlError::NotUrl)?;
    let (Some(host), Some(authority)) = (url.host(), url.authority()) else {
        return Err(ResourceUrlError::NotUrl);
    };
    let is_web = url.scheme() == Some(&Scheme::HTTPS) || url.scheme() == Some(&Scheme::HTTP);
    if !is_web || url.query().is_some() || authority.as_str().contains('@') {
        return Err(ResourceUrlError::NotUrl);
    }
    let is =
        |it: &String| it.eq_ignore_ascii_case(host) || it.eq_ignore_ascii_case(authority.as_str());
    if !hosts.iter().any(is) {
        return Err(ResourceUrlError::Host);
    }
    if url.scheme() == Some(&Scheme::HTTP) && !is_loopback_host(host) {
        return Err(ResourceUrlError::Unencrypted);
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(resource: &str) -> Result<String, ResourceUrlError> {
        let hosts = ["portal.example", "127.0.0.1"].map(str::to_owned);
        base_url(resource, &hosts).map(|it| it.to_string())
    }

    #[test]
    fn adds_the_scheme_and_the_version_where_missing() {
        for resource in [
            "portal.example",
            "portal.example/",
            "https://portal.example",
            "https://portal.example/v1/",
            " https://portal.example/v1 ",
        ] {
            assert_eq!(
                base(resource).unwrap(),
                "https://portal.example/v1",
                "{resource}"
            );
        }
        assert_eq!(
            base("http://127.0.0.1:7/x").unwrap(),
            "http://127.0.0.1:7/x/v1"
        );
    }

    #[test]
    fn a_host_that_is_not_listed_is_refused_however_it_is_dressed() {
        for resource in [
            "evil.example",
            "portal.example.evil.example",
            "https://evil.example/portal.example",
            "https://portal.example.",
        ] {
            assert_eq!(base(resource), Err(ResourceUrlError::Host), "{resource}");
        }
        for resource in [
            "portal.example@evil.example",
            "evil@portal.example",
            "ftp://portal.example",
            "",
        ] {
            assert!(base(resource).is_err(), "{resource}");
        }
    }

    #[test]
    fn plain_http_is_for_loopback_only() {
        assert_eq!(
            base("http://portal.example"),
            Err(ResourceUrlError::Unencrypted)
        );
    }
}
