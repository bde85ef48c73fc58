//! Which upstream a request goes to, and under which path.

use bytes::Bytes;
use http::Request;
use pacegate::simulator::{Options, Simulator};
use serde_json::{Value, json};

use super::{assert_ok, assert_refused, pair, plain, raw, simulator};
use crate::support::{
    client::{Answer, post_json, send, whole},
    gateway::{Gateway, named_upstream},
};

/// Two upstreams with two models between them.
async fn two() -> (Simulator, Simulator, Gateway) {
    let one = simulator(Options::default()).await;
    let other = simulator(Options::default()).await;
    let config = named_upstream(
        "one",
        &one.base_url(),
        "models = [{ id = \"large\", context = 1000, output = 100, input = [\"text\"] }]",
    ) + &named_upstream("other", &other.base_url(), "models = [{ id = \"small\" }]");
    let gateway = Gateway::start(&config);
    (one, other, gateway)
}

async fn ask(gateway: &Gateway, method: &str, path: &str) -> Answer {
    let request = Request::builder().method(method).uri(gateway.url(path));
    let response = send(request.body(Bytes::new()).unwrap()).await.unwrap();
    whole(response).await.unwrap()
}

#[tokio::test]
async fn any_method_and_path_under_v1_reaches_the_upstream_with_its_query() {
    let (simulator, gateway) = pair(&[], "").await;
    for (method, path) in [
        ("GET", "/v1/models/x"),
        ("DELETE", "/v1/files/a%20b?c=%2Fd&e"),
        ("PUT", "/v1/a/"),
        ("PATCH", "/v1/a.b/c;d"),
        ("QUERY", "/v1/x?"),
    ] {
        let answer = ask(&gateway, method, path).await;
        assert_ok(&answer);
        let seen: Value = answer.json();
        assert_eq!(seen["method"], method);
        assert_eq!(seen["target"], path);
    }
    let answer = ask(&gateway, "HEAD", "/v1/files").await;
    assert_ok(&answer);
    assert!(answer.body.is_empty());
    assert_eq!(simulator.arrivals().pop().unwrap().method, "HEAD");
}

#[tokio::test]
async fn the_path_of_the_base_url_takes_the_place_of_v1() {
    let simulator = simulator(Options::default()).await;
    let base = format!("{}/v1/compatible/api/", simulator.origin());
    let gateway = Gateway::start(&named_upstream("sim", &base, ""));
    let answer = ask(&gateway, "GET", "/v1/files/7?x=1").await;
    assert_eq!(answer.json()["target"], "/v1/compatible/api/files/7?x=1");
    let answer = ask(&gateway, "GET", "/u/sim/v1/files/7?x=1").await;
    assert_eq!(answer.json()["target"], "/v1/compatible/api/files/7?x=1");
}

#[tokio::test]
async fn the_model_chooses_the_upstream_unless_the_path_names_one() {
    let (one, other, gateway) = two().await;
    for (path, model, expected) in [
        ("/v1/chat/completions", "large", (1, 0)),
        ("/v1/chat/completions", "small", (1, 1)),
        ("/v1/chat/completions", "unknown", (2, 1)),
        ("/u/other/v1/chat/completions", "large", (2, 2)),
        ("/u/one/v1/chat/completions", "small", (3, 2)),
    ] {
        let answer = post_json(&gateway.url(path), plain(model), &[])
            .await
            .unwrap();
        assert_ok(&answer);
        let arrived = (one.arrivals().len(), other.arrivals().len());
        assert_eq!(arrived, expected, "{path} {model}");
    }
}

#[tokio::test]
async fn models_of_all_upstreams_are_listed_without_asking_them() {
    let (one, other, gateway) = two().await;
    let answer = gateway.get("/v1/models").await;
    assert_ok(&answer);
    let list = answer.json();
    assert_eq!(list["object"], "list");
    assert_eq!(list["data"][0]["id"], "large");
    assert_eq!(list["data"][0]["owned_by"], "one");
    assert_eq!(list["data"][1]["id"], "small");
    assert_eq!(list["data"][1]["object"], "model");
    let head = ask(&gateway, "HEAD", "/v1/models").await;
    assert_eq!(head.header("content-length"), answer.body.len().to_string());
    assert_eq!((one.arrivals().len(), other.arrivals().len()), (0, 0));

    // One upstream's own list is asked for under its name.
    let own = gateway.get("/u/other/v1/models").await.json();
    assert_eq!(own["data"][0]["id"], "sim-large");
}

#[tokio::test]
async fn probes_are_answered_here() {
    let (simulator, gateway) = pair(&[], "").await;
    for path in ["/healthz", "/readyz"] {
        assert_ok(&gateway.get(path).await);
    }
    assert!(simulator.arrivals().is_empty());
}

#[tokio::test]
async fn a_path_that_leads_nowhere_is_404() {
    let (simulator, gateway) = pair(&[], "").await;
    for path in [
        "/",
        "/v1",
        "/v1/",
        "/v2/models",
        "/V1/models",
        "/%76%31/models",
        "/u/sim",
        "/u/sim/",
        "/u/sim/v1",
        "/u/sim/v1/",
        "/u/nobody/v1/models",
        "/u//v1",
        "/healthz/",
    ] {
        let answer = ask(&gateway, "GET", path).await;
        if path == "/u//v1" {
            assert_refused(&answer, 400, "invalid_target");
        } else {
            assert_refused(&answer, 404, "not_found");
        }
    }
    assert!(simulator.arrivals().is_empty());
}

/// `/batches/ID/cancel` and others like it are posted without a body.
#[tokio::test]
async fn an_empty_post_passes_where_no_model_is_needed() {
    let (simulator, gateway) = pair(&[], "").await;
    let answer = post_json(&gateway.url("/v1/batches/b1/cancel"), "", &[])
        .await
        .unwrap();
    assert_ok(&answer);
    assert_eq!(simulator.arrivals()[0].body_bytes, 0);
    for path in ["chat/completions", "completions", "embeddings", "responses"] {
        let url = gateway.url(&format!("/v1/{path}"));
        let answer = post_json(&url, "", &[]).await.unwrap();
        assert_refused(&answer, 400, "model_missing");
    }
    let model_less = json!({ "input": "x" }).to_string();
    let answer = post_json(&gateway.url("/v1/moderations"), model_less, &[]).await;
    assert_ok(&answer.unwrap());
}

#[tokio::test]
async fn an_unknown_path_or_upstream_is_refused_before_the_body_arrives() {
    let (simulator, gateway) = pair(&[], "").await;
    for path in [
        "/v2/chat/completions",
        "/u/nobody/v1/chat/completions",
        "/u/nobody/x",
    ] {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: 100\r\n\r\n"
        );
        let read = raw(&gateway, head.as_bytes()).await;
        assert!(read.starts_with("HTTP/1.1 404 "), "{path}: {read}");
        let is_upstream = path.starts_with("/u/");
        assert_eq!(
            read.contains("no upstream of that name"),
            is_upstream,
            "{path}: {read}"
        );
    }
    assert!(simulator.arrivals().is_empty());
}
