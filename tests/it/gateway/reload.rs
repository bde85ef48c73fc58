//! SIGHUP: another config takes effect at once and whole, or not at all.

use std::time::Duration;

use pacegate::simulator::Options;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    assert_ok, assert_refused, dial, eventually, pair, plain, queued, request, simulator, streamed,
};
use crate::support::{
    client::post_json,
    gateway::{Gateway, named_upstream, upstream},
    lateness::Lateness,
};

const RELOADED: &str = "\"Config reloaded\"";

#[tokio::test]
async fn a_good_config_takes_effect_for_what_comes_from_now_on() {
    let (one, two) = (
        simulator(Options::default()).await,
        simulator(Options::default()).await,
    );
    let gateway = Gateway::start(&upstream(&one.base_url(), ""));
    assert_ok(&gateway.chat(plain("m")).await.unwrap());
    gateway.reload(&("max-body = \"1KiB\"\n".to_owned() + &upstream(&two.base_url(), "")));
    gateway.logged(RELOADED).await;
    assert_ok(&gateway.chat(plain("m")).await.unwrap());
    assert_eq!((one.arrivals().len(), two.arrivals().len()), (1, 1));
    let large = gateway.chat(plain("m".repeat(1024))).await.unwrap();
    assert_refused(&large, 413, "request_too_large");
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.sum("pacegate_answers_total"), 3, "counts go on");
}

#[tokio::test]
async fn a_bad_config_is_refused_with_its_reason_and_the_old_one_stays() {
    let (_simulator, gateway) = pair(&[], "").await;
    for (config, reason) in [
        ("no-such-key = 1\n", "no-such-key: unknown key"),
        ("listen = \n", "not TOML"),
        ("", "base-url"),
        (
            "client-keys = [{ env = \"NO_SUCH_VARIABLE\" }]\n",
            "NO_SUCH_VARIABLE",
        ),
        ("drain-timeout = \"soon\"\n", "expected a duration"),
    ] {
        let upstream = "[[upstream]]\nname = \"sim\"\npreset = \"local\"\nbase-url = \"ftp://x\"\n";
        gateway.reload(&format!("{config}{upstream}"));
        gateway.logged(reason).await;
        assert_ok(&gateway.chat(plain("m")).await.unwrap());
    }
    let log = gateway.log();
    assert_eq!(log.matches("the old one stays in use").count(), 5, "{log}");
    assert!(log.contains("hint: "), "{log}");
    assert!(!log.contains(RELOADED));
}

#[tokio::test]
async fn an_upstream_that_cannot_be_put_together_is_a_bad_config_too() {
    let (simulator, gateway) = pair(&[], "").await;
    let more = "tls = { ca-file = \"none.pem\" }";
    gateway.reload(&upstream(&simulator.base_url(), more));
    gateway.logged("none.pem").await;
    gateway.logged("the old one stays in use").await;
    assert_ok(&gateway.chat(plain("m")).await.unwrap());
}

#[tokio::test]
async fn those_who_wait_keep_their_place_where_nothing_has_changed() {
    let simulator = simulator(Options::default()).await;
    // Long enough for two to come and a reload, before the first of them leaves.
    let pacing = "jitter-throttle = { min-interval = \"4s\", jitter = \"0s..0s\" }";
    let paced = upstream(&simulator.base_url(), pacing);
    let other = |timeout| named_upstream("other", &simulator.base_url(), timeout);
    let gateway = Gateway::start(&(paced.clone() + &other("")));
    let lateness = Lateness::watch();
    let reloading = async {
        queued(&gateway, 2).await;
        gateway.reload(&(other("head-timeout = \"7s\"") + &paced));
        gateway.logged(RELOADED).await;
        assert_eq!(gateway.metrics().await.sum("pacegate_queue_waiting"), 2);
    };
    let url = gateway.url("/u/sim/v1/chat/completions");
    let behind = async |model: &str, others| {
        eventually("the others do not come", async || {
            let metrics = gateway.metrics().await;
            let waiting = metrics.sum("pacegate_queue_waiting");
            waiting + metrics.sum("pacegate_dispatches_total") >= others
        })
        .await;
        post_json(&url, plain(model), &[]).await
    };
    let (a, b, c, ()) = tokio::join!(behind("a", 0), behind("b", 1), behind("c", 2), reloading);
    for answer in [a, b, c] {
        assert_ok(&answer.unwrap());
    }
    let arrivals = simulator.arrivals();
    assert_eq!(super::models(&arrivals), ["a", "b", "c"]);
    let least = 3990.0 - lateness.most().as_secs_f64() * 1000.0;
    assert!(super::gaps_ms(&arrivals).iter().all(|gap| *gap > least));
    gateway.logged("\"kept\":1,\"built\":1").await;
}

#[tokio::test]
async fn a_stream_ends_on_the_upstream_that_it_began_on_even_if_that_is_gone() {
    let simulator = simulator(Options {
        chunks: 10,
        chunk_gap: Duration::from_millis(50),
        ..Options::default()
    })
    .await;
    let gateway = Gateway::start(&upstream(&simulator.base_url(), ""));
    let mut client = dial(&gateway).await;
    let json = "content-type: application/json\r\n";
    let chat = request("POST /v1/chat/completions", json, &streamed("m"));
    client.write_all(&chat).await.unwrap();
    client.read_u8().await.unwrap();
    gateway.reload(&named_upstream("another", "http://127.0.0.1:1/v1", ""));
    gateway.logged(RELOADED).await;
    let mut read = String::new();
    client.read_to_string(&mut read).await.unwrap();
    assert!(
        read.contains("data: [DONE]\n\n") && read.ends_with("0\r\n\r\n"),
        "{read}"
    );
}

#[tokio::test]
async fn what_a_process_cannot_change_is_named_and_stays() {
    let (simulator, gateway) = pair(&[], "").await;
    let moved = "listen = \"127.0.0.1:1\"\nworkers = 2\nstate-dir = \"elsewhere\"\n";
    gateway.reload(&(moved.to_owned() + &upstream(&simulator.base_url(), "")));
    gateway.logged(RELOADED).await;
    for key in ["listen", "workers", "state-dir"] {
        gateway.logged(&format!("\"key\":\"{key}\"")).await;
    }
    gateway.logged("Only a restart changes this").await;
    assert_ok(&gateway.chat(plain("m")).await.unwrap());
}

#[tokio::test]
async fn client_keys_cannot_be_dropped_while_others_can_reach_the_address() {
    let simulator = simulator(Options::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let key = "6a2b7d0c95e84f13a7c0d2e9b8416f35";
    std::fs::write(folder.path().join("key"), key).unwrap();
    let upstream = upstream(&simulator.base_url(), "");
    let exposed = "listen = \"0.0.0.0:0\"\nallowed-hosts = [\"0.0.0.0\"]\n";
    let keys = "client-keys = [{ file = \"key\" }]\n";
    let gateway = Gateway::start_in(folder, &format!("{exposed}{keys}{upstream}"));
    // On loopback this would be a good one; but the socket stays where it is.
    gateway.reload(&format!("listen = \"127.0.0.1:0\"\n{upstream}"));
    gateway.logged("the old one stays in use").await;
    gateway.logged("needs a client key").await;
    let answer = gateway.chat(plain("m")).await.unwrap();
    assert_refused(&answer, 401, "invalid_client_key");
}
