//! Which headers pass. Input: headers, as a client or an upstream sends them.

use std::{
    collections::HashSet,
    sync::{Arc, LazyLock, Mutex},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Empty, Full};
use pacegate::{
    body::Body,
    config::LayerName,
    upstreams::{self, UpstreamService},
};
use pacegate_layers::{error::BoxError, header_align::strip_hop_by_hop, token::StaticToken};
use tokio::runtime::Builder;
use tower::{ServiceExt, service_fn};

use super::input;

const PROFILES: [&str; 3] = ["neutral", "qwen-code-0.10", "qwen-code-0.24"];

/// Headers of one connection only.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Headers that the client may decide: the default `pass`, narrowed by a profile.
const PASSED: [&str; 3] = ["accept", "accept-encoding", "content-type"];

/// A pipeline per profile, and the headers that arrived behind it.
static PIPELINES: LazyLock<Vec<(UpstreamService, Arrived)>> =
    LazyLock::new(|| PROFILES.into_iter().map(pipeline).collect());

type Arrived = Arc<Mutex<HeaderMap>>;

fn pipeline(profile: &str) -> (UpstreamService, Arrived) {
    let config = input::configured(&format!(
        "[[upstream]]\nname = \"one\"\npreset = \"local\"\nbase-url = \"http://127.0.0.1:9/v1\"\n\
         pipeline = [\"header-align\"]\n\
         [upstream.header-align]\nprofile = \"{profile}\"\n"
    ));
    let mut upstream = config.upstreams.into_iter().next().unwrap();
    upstream.pipeline.push(LayerName::BearerAuth);
    let arrived = Arrived::default();
    let seen = Arc::clone(&arrived);
    let client = service_fn(move |request: Request<Full<Bytes>>| {
        *seen.lock().unwrap() = request.into_parts().0.headers;
        let body: Body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        async move { Ok::<_, BoxError>(Response::new(body)) }
    });
    let token = Arc::new(StaticToken::new("ours").unwrap());
    let built = upstreams::build(&upstream, client, Some(token), None).unwrap();
    (built.service, arrived)
}

/// The upstream gets our token and the headers that the profile or `pass` allows; no hop-by-hop
/// header passes.
pub fn run(input: &[u8]) {
    let (client, _) = input::message(input);
    check_stripped(client.clone());
    let runtime = Builder::new_current_thread().enable_time().build().unwrap();
    for (pipeline, arrived) in &*PIPELINES {
        let [with_client, without] = [client.clone(), HeaderMap::new()].map(|headers| {
            let mut request = Request::new(Full::new(Bytes::new()));
            *request.headers_mut() = headers;
            runtime.block_on(pipeline.clone().oneshot(request)).unwrap();
            std::mem::take(&mut *arrived.lock().unwrap())
        });
        let tokens: Vec<_> = with_client.get_all(header::AUTHORIZATION).iter().collect();
        assert_eq!(tokens, ["Bearer ours"]);
        for (name, value) in &with_client {
            let added = without.get_all(name).iter().any(|added| added == value);
            let passed = PASSED.contains(&name.as_str()) && offers(&client, name, value);
            assert!(added || passed, "{name}: {value:?}");
        }
    }
}

/// Whether the client sent `value`, or a list with all its members.
fn offers(client: &HeaderMap, name: &HeaderName, value: &HeaderValue) -> bool {
    let offered = client.get_all(name).iter().map(HeaderValue::as_bytes);
    let text = offered.collect::<Vec<_>>().join(&b","[..]);
    let text = String::from_utf8_lossy(&text).to_ascii_lowercase();
    let value = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
    value.split(',').all(|member| text.contains(member.trim()))
}

fn check_stripped(mut headers: HeaderMap) {
    let named: HashSet<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    strip_hop_by_hop(&mut headers);
    for name in headers.keys() {
        assert!(!HOP_BY_HOP.contains(&name.as_str()), "{name}");
        assert!(!named.contains(name.as_str()), "{name}");
    }
}
