use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

fn client(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    fields
        .iter()
        .map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        })
        .collect()
}

fn text(headers: &HeaderMap) -> Vec<String> {
    headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect()
}

fn set(value: &'static str) -> Rule {
    Rule::Set(HeaderValue::from_static(value))
}

#[test]
fn sends_the_fields_in_their_order_and_nothing_else() {
    let layer = HeaderAlignLayer::new()
        .field(header::HOST, Rule::Place)
        .field(header::CONNECTION, set("keep-alive"))
        .field(header::ACCEPT, set("application/json"))
        .field(header::AUTHORIZATION, Rule::Place)
        .field(header::USER_AGENT, set("a/1"));
    let aligned = layer.template.align(&client(&[
        ("user-agent", "client/9"),
        ("x-session-id", "s1"),
        ("authorization", "Bearer client"),
        ("accept", "*/*"),
    ]));
    assert_eq!(
        text(&aligned),
        [
            "host: ",
            "connection: keep-alive",
            "accept: application/json",
            "authorization: ",
            "user-agent: a/1"
        ]
    );
}

#[test]
fn a_client_value_that_is_never_passed_counts_as_absent() {
    let own = HeaderValue::from_static("own");
    let layer = HeaderAlignLayer::new()
        .field(header::COOKIE, Rule::SetIfAbsent(own.clone()))
        .field(header::TE, Rule::SetIfAbsent(own.clone()))
        .field(header::UPGRADE, Rule::Narrow(own));
    let theirs = [("cookie", "theirs"), ("te", "own"), ("upgrade", "own")];
    let aligned = layer.template.align(&client(&theirs));
    assert_eq!(text(&aligned), ["cookie: own", "te: own"]);
}

#[test]
fn a_field_named_in_connection_is_not_passed() {
    let layer = HeaderAlignLayer::new()
        .pass(HeaderName::from_static("x-keep"))
        .unwrap()
        .pass(HeaderName::from_static("x-drop"))
        .unwrap();
    let aligned = layer.template.align(&client(&[
        ("x-keep", "1"),
        ("x-drop", "2"),
        ("connection", "close, X-Drop"),
    ]));
    assert_eq!(text(&aligned), ["x-keep: 1"]);
}

#[test]
fn connection_cannot_remove_our_own_headers() {
    let layer = HeaderAlignLayer::new().field(header::AUTHORIZATION, Rule::Place);
    let aligned = layer
        .template
        .align(&client(&[("connection", "authorization, host")]));
    assert_eq!(text(&aligned), ["authorization: "]);
}

#[test]
fn credentials_and_hop_by_hop_fields_cannot_be_passed() {
    for name in HOP_BY_HOP.iter().chain(&RESERVED) {
        assert!(
            HeaderAlignLayer::new().pass(name.clone()).is_err(),
            "{name} must be refused"
        );
    }
}

#[test]
fn passed_headers_keep_all_their_values() {
    let aligned = HeaderAlignLayer::default().template.align(&client(&[
        ("accept", "a"),
        ("accept", "b"),
        ("x-other", "c"),
    ]));
    assert_eq!(text(&aligned), ["accept: a", "accept: b"]);
}

#[test]
fn set_if_absent_yields_to_the_client() {
    let layer = HeaderAlignLayer::new().field(
        header::USER_AGENT,
        Rule::SetIfAbsent(HeaderValue::from_static("own")),
    );
    assert_eq!(
        text(&layer.template.align(&client(&[("user-agent", "theirs")]))),
        ["user-agent: theirs"]
    );
    assert_eq!(
        text(&layer.template.align(&client(&[]))),
        ["user-agent: own"]
    );
}

#[test]
fn an_encoding_is_requested_only_if_the_client_can_read_it() {
    let layer = HeaderAlignLayer::new().field(
        header::ACCEPT_ENCODING,
        Rule::Narrow(HeaderValue::from_static("br, gzip")),
    );
    let ask = |offer| text(&layer.template.align(&client(&[("accept-encoding", offer)])));
    assert_eq!(
        ask("gzip, deflate, BR;q=0.5"),
        ["accept-encoding: br, gzip"]
    );
    assert_eq!(ask("gzip, br;q=0"), ["accept-encoding: gzip, br;q=0"]);
    assert_eq!(ask("identity"), ["accept-encoding: identity"]);
    assert!(layer.template.align(&client(&[])).is_empty());
}

#[test]
fn the_clients_own_lists_stand_where_the_field_stands() {
    let narrow = |list| Rule::Narrow(HeaderValue::from_static(list));
    let layer = HeaderAlignLayer::new()
        .field(header::ACCEPT, set("a"))
        .field(header::ACCEPT_ENCODING, narrow("br, gzip, gzip"))
        .field(header::ACCEPT_LANGUAGE, narrow("en"))
        .field(header::USER_AGENT, set("b"))
        .field(header::RANGE, narrow("c"));
    let template = &layer.template;
    let offers = [("accept-encoding", "gzip"), ("accept-encoding", "br")];
    assert_eq!(
        text(&template.align(&client(&offers))),
        [
            "accept: a",
            "accept-encoding: br, gzip, gzip",
            "user-agent: b"
        ],
        "two lists are as good as one"
    );
    let offers = [
        ("range", "d"),
        ("accept-language", "de"),
        ("accept-encoding", "gzip"),
        ("accept-encoding", "zstd"),
    ];
    assert_eq!(
        text(&template.align(&client(&offers))),
        [
            "accept: a",
            "accept-encoding: gzip",
            "accept-encoding: zstd",
            "accept-language: de",
            "user-agent: b",
            "range: d"
        ]
    );
    assert_eq!(
        text(&template.align(&client(&[]))),
        ["accept: a", "user-agent: b"]
    );
}

#[test]
fn the_last_rule_wins_in_the_first_rules_position() {
    let layer = HeaderAlignLayer::new()
        .field(header::ACCEPT, set("a"))
        .field(header::USER_AGENT, set("b"))
        .field(header::ACCEPT, set("c"));
    assert_eq!(
        text(&layer.template.align(&client(&[]))),
        ["accept: c", "user-agent: b"]
    );
}

#[test]
fn stripping_hop_by_hop_headers_keeps_the_order() {
    let mut headers = client(&[
        ("te", "trailers"),
        ("accept", "a"),
        ("connection", "x-drop"),
        ("accept", "b"),
        ("x-drop", "c"),
        ("user-agent", "d"),
        ("x-keep", "e"),
    ]);
    strip_hop_by_hop(&mut headers);
    assert_eq!(
        text(&headers),
        ["accept: a", "accept: b", "user-agent: d", "x-keep: e"]
    );
}

/// A layer with every kind of rule, and two headers that are passed.
fn every_rule() -> HeaderAlignLayer {
    let own = HeaderValue::from_static("own");
    HeaderAlignLayer::new()
        .field(header::HOST, Rule::Place)
        .field(header::ACCEPT, Rule::Narrow(own.clone()))
        .field(header::COOKIE, Rule::SetIfAbsent(own.clone()))
        .field(header::ORIGIN, Rule::Set(own.clone()))
        .field(header::USER_AGENT, Rule::SetIfAbsent(own))
        .pass(header::CONTENT_TYPE)
        .and_then(|layer| layer.pass(header::RANGE))
        .unwrap()
}

fn client_headers() -> impl Strategy<Value = HeaderMap> {
    let name = select(
        &[
            "accept",
            "authorization",
            "connection",
            "content-type",
            "cookie",
            "host",
            "origin",
            "range",
            "te",
            "user-agent",
            "x-other",
        ][..],
    );
    let value = select(&["own", "theirs, own", "close, range", "accept", "own;q=0"][..]);
    vec((name, value), 0..12).prop_map(|fields| client(&fields))
}

proptest! {
    #[test]
    fn any_client_headers_leave_in_the_lists_order(client in client_headers()) {
        let layer = every_rule();
        let aligned = layer.template.align(&client);
        let mut order = layer.template.fields.iter().map(|(name, _)| name).chain(&layer.template.pass);
        prop_assert!(aligned.keys().all(|name| order.any(|known| known == name)));
        prop_assert_eq!(&aligned["host"], "");
        prop_assert_eq!(&aligned["cookie"], "own");
        prop_assert_eq!(&aligned["origin"], "own");
    }
}
