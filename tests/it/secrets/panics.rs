//! A panic prints what was in its hands; none of that may be a secret.

use std::{
    env,
    fmt::Debug,
    io::{self, Write},
    sync::Arc,
};

use http::{Response, request::Parts};
use http_body_util::Full;
use pacegate::{
    body::Body,
    config::{self, Config, ConfigSource, Credentials, Upstream},
    credentials::source::{OAuthSource, Settings},
    edge::Gateway,
    telemetry,
    upstreams::{Pipeline, build},
};
use tokio_util::task::TaskTracker;

use super::{
    scene::{credentials, idle_upstream},
    *,
};

/// Set where this test is the gateway.
const INSIDE: &str = "PACEGATE_TEST_INSIDE";

#[tokio::test]
async fn a_panic_with_a_secret_in_its_hands_does_not_print_it_and_costs_one_request() {
    if env::var_os(INSIDE).is_some() {
        return serve().await;
    }
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    put("client-key", CLIENT_KEY);
    put("holds.json", &credentials("holds", "4000000000000"));
    put("renews.json", &credentials("renews", "1"));
    put("pacegate.toml", &config());
    let mut suspect = Suspect::launch(folder, |folder| {
        let mut command = Command::new(env::current_exe().unwrap());
        let test = "a_panic_with_a_secret_in_its_hands_does_not_print_it_and_costs_one_request";
        command
            .args([
                &format!("secrets::panics::{test}"),
                "--exact",
                "--nocapture",
            ])
            .current_dir(folder)
            .envs([(INSIDE, "1"), ("RUST_BACKTRACE", "full")]);
        command
    })
    .await;
    assert_eq!(suspect.ask("holds").await, 500);
    assert_eq!(suspect.ask("renews").await, 503);
    assert_eq!(suspect.ask("holds").await, 500, "it serves on");

    let log = suspect.read("stderr");
    for (panic, times) in [("\nsends {", 2), ("\nrenews {", 1)] {
        assert_eq!(log.matches(panic).count(), times, "{log}");
    }
    for said in ["panicked at", "Sensitive", "SecretBox"] {
        assert!(log.contains(said), "no {said} in the log");
    }
    assert_clean("the log", &log, CANARIES);
    assert_clean("an answer", &suspect.said, CANARIES);
}

fn config() -> String {
    let upstreams = ["holds", "renews"].map(|name| {
        let upstream = idle_upstream(name);
        format!(
            r#"{upstream}
[upstream.credentials]
kind = "oauth"
file = "{name}.json"
device-code-url = "http://127.0.0.1:9/code"
token-url = "http://127.0.0.1:9/token"
client-id = "test"
scope = "test"
resource-hosts = []
"#
        )
    });
    format!(
        "listen = \"127.0.0.1:0\"\nclient-keys = [{{ file = \"client-key\" }}]\n\
         log = {{ level = \"trace\", format = \"json\" }}\n{}",
        upstreams.concat()
    )
}

/// The gateway as `serve` composes it, except that all that should leave it ends in a panic.
async fn serve() {
    let source = ConfigSource {
        config: Some("pacegate.toml".into()),
        ..ConfigSource::new(&|_| None)
    };
    let config = config::load(&source).unwrap().config;
    telemetry::log::init(&config.log).unwrap();
    let tasks = TaskTracker::new();
    let pipelines = config.upstreams.iter();
    let pipelines = pipelines.map(|upstream| pipeline(upstream, &config, &tasks));
    let gateway = Gateway::bind(&config, pipelines.collect()).await.unwrap();
    // Past the capture of `println`, and on a line of its own.
    writeln!(io::stdout(), "\nlistening on {gateway}").unwrap();
    gateway.serve(std::future::pending()).await;
}

fn pipeline(upstream: &Upstream, config: &Config, tasks: &TaskTracker) -> Pipeline {
    let Credentials::OAuth(oauth) = &upstream.credentials else {
        unreachable!("all are of this kind");
    };
    let settings = Settings::new(oauth, &upstream.token_refresh, "log in");
    let endpoint = tower::service_fn(async |request: Request<Full<Bytes>>| {
        explode("renews", &request.into_parts().0, &())
    });
    let source = OAuthSource::new(settings, endpoint, tasks.clone());
    let held = (config.clone(), source.clone());
    let client = tower::service_fn(move |request: Request<Full<Bytes>>| {
        let held = held.clone();
        async move { explode("sends", &request.into_parts().0, &held) }
    });
    build(upstream, client, Some(Arc::new(source)), None).unwrap()
}

/// Without the target and the body: nobody prints those.
fn explode(doing: &str, head: &Parts, held: &dyn Debug) -> Result<Response<Body>, BoxError> {
    panic!(
        "{doing} {:?} {:?} with {held:?}",
        head.headers, head.extensions
    )
}
