use proptest::prelude::*;

use super::*;

fn limits() -> Limits {
    let local = crate::config::Sample::Preset("local".into());
    crate::config::sample(&local, &|_| None).unwrap().limits
}

fn rules() -> AccessRules {
    AccessRules {
        hosts: vec!["localhost".into(), "pacegate.internal".into()],
        origins: vec!["https://ok.example".into()],
        keys: Vec::new(),
        limits: limits(),
    }
}

fn check(
    rules: &AccessRules,
    method: &str,
    uri: &str,
    fields: &[(&str, &str)],
) -> Option<Rejected> {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    rules.check(&request.body(()).unwrap()).err()
}

#[test]
fn passes_exactly_the_allowed_hosts() {
    for (host, passes) in [
        ("localhost", true),
        ("LOCALHOST:7223", true),
        ("127.0.0.1:7223", true),
        ("127.8.9.1", true),
        ("[::1]:7223", true),
        ("pacegate.internal:80", true),
        ("evil.example", false),
        ("localhost.evil.example", false),
        ("127.0.0.1.nip.io", false),
        ("evil.example@localhost", false),
        ("localhost@evil.example", false),
        ("192.168.1.2", false),
        ("0.0.0.0", false),
        ("[::2]", false),
        ("local host", false),
        ("", false),
    ] {
        let rejected = check(&rules(), "GET", "/v1/models", &[("host", host)]);
        assert_eq!(rejected.is_none(), passes, "{host}: {rejected:?}");
    }
    assert_eq!(
        check(&rules(), "GET", "/", &[]),
        Some(Rejected::HostMissing)
    );
    let twice = [("host", "localhost"), ("host", "localhost")];
    assert_eq!(
        check(&rules(), "GET", "/", &twice),
        Some(Rejected::HostMissing)
    );
}

#[test]
fn a_web_page_passes_only_if_it_is_listed() {
    let ask = |fields: &[(&str, &str)]| {
        let fields = [&[("host", "localhost")], fields].concat();
        check(&rules(), "GET", "/v1/models", &fields)
    };
    assert_eq!(ask(&[]), None);
    assert_eq!(ask(&[("origin", "https://ok.example")]), None);
    assert_eq!(
        ask(&[
            ("origin", "https://ok.example"),
            ("sec-fetch-site", "cross-site")
        ]),
        None
    );
    assert_eq!(
        ask(&[("sec-fetch-mode", "cors")]),
        None,
        "Node's fetch sends it"
    );
    for origin in [
        "null",
        "http://localhost:3000",
        "https://ok.example.evil",
        "",
    ] {
        assert_eq!(
            ask(&[("origin", origin)]),
            Some(Rejected::Origin),
            "{origin}"
        );
    }
    assert_eq!(
        ask(&[("sec-fetch-site", "cross-site")]),
        Some(Rejected::Origin)
    );
}

#[test]
fn post_needs_json() {
    let ask = |kind| {
        let fields = [("host", "localhost"), ("content-type", kind)];
        check(&rules(), "POST", "/v1/chat/completions", &fields)
    };
    assert_eq!(ask("application/json"), None);
    assert_eq!(ask("Application/JSON; charset=utf-8"), None);
    assert_eq!(ask("text/plain"), Some(Rejected::ContentType));
    assert_eq!(
        ask("application/json-patch+json"),
        Some(Rejected::ContentType)
    );
}

#[test]
fn a_configured_client_key_is_required_except_for_probes() {
    let key = "0123456789abcdef0123456789abcdef";
    let rules = AccessRules {
        hosts: vec!["localhost".into()],
        origins: Vec::new(),
        keys: vec![key.to_owned().into()],
        limits: limits(),
    };
    let ask = |path, fields: &[(&str, &str)]| {
        check(
            &rules,
            "GET",
            path,
            &[&[("host", "localhost")], fields].concat(),
        )
    };
    let bearer = format!("Bearer {key}");
    assert_eq!(ask("/v1/models", &[("authorization", &bearer)]), None);
    assert_eq!(ask("/v1/models", &[("x-api-key", key)]), None);
    assert_eq!(ask("/healthz", &[]), None);
    for wrong in ["Bearer ", "Bearer 0123", "Basic x", key] {
        let rejected = ask("/v1/models", &[("authorization", wrong)]);
        assert_eq!(rejected, Some(Rejected::ClientKey), "{wrong}");
    }
}

#[test]
fn ambiguous_framing_is_rejected() {
    let ask = |fields: &[(&str, &str)]| {
        let fields = [&[("host", "localhost")], fields].concat();
        check(&rules(), "GET", "/v1/models", &fields)
    };
    let chunked = ("transfer-encoding", "Chunked");
    assert_eq!(ask(&[chunked]), None);
    assert_eq!(ask(&[("content-length", "2")]), None);
    assert_eq!(ask(&[("session_id", "s1")]), None);
    for fields in [
        &[chunked, ("content-length", "2")][..],
        &[chunked, chunked],
        &[("transfer-encoding", "gzip, chunked")],
        &[("transfer_encoding", "chunked")],
        &[("content_length", "2")],
    ] {
        assert_eq!(ask(fields), Some(Rejected::Framing), "{fields:?}");
    }
}

#[test]
fn sizes_of_heads_and_targets_and_the_case_of_methods_are_checked() {
    let host = ("host", "localhost");
    let rules = AccessRules {
        limits: Limits {
            max_header_fields: 3,
            max_header_size: 64,
            max_target: 12,
            ..limits()
        },
        ..rules()
    };
    let ask = |uri: &str, fields: &[(&str, &str)]| check(&rules, "GET", uri, fields);
    assert_eq!(ask("/v1/models?a", &[host, ("a", "1"), ("b", "2")]), None);
    assert_eq!(ask("/v1/models?ab", &[host]), Some(Rejected::TargetTooLong));
    let many = [host, ("a", "1"), ("b", "2"), ("c", "3")];
    assert_eq!(ask("/v1/models", &many), Some(Rejected::HeadTooLarge));
    let large = "x".repeat(64);
    let fits = [host, ("a", &large[..40])];
    assert_eq!(ask("/v1/models", &fits), None);
    let too_large = [host, ("a", &large[..])];
    assert_eq!(ask("/v1/models", &too_large), Some(Rejected::HeadTooLarge));
    let rejected = check(&rules, "get", "/v1/models", &[host]);
    assert_eq!(rejected, Some(Rejected::MethodCase));
}

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
