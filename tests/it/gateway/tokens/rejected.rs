//! An upstream that refuses every token, however new.

use super::*;
use crate::support::client::{Answer, post_json};

const LIFETIME: Duration = Duration::from_secs(3600);
const PACING: &str = "min-interval = \"0s\"\nconcurrency = 10";

/// A gateway in front of a simulator that answers every chat with `status`.
async fn refused_with(status: u16) -> (Simulator, Gateway) {
    let simulator = issuer(LIFETIME).await;
    let fault = format!("every/{status}");
    simulator.set_faults(vec![fault.parse().unwrap()]);
    let folder = TempDir::new().unwrap();
    write_credentials(folder.path(), &simulator.issue(), LIFETIME);
    let dialect = "refresh-on = [401, 403]\nrule = []\n";
    fs::write(folder.path().join("dialect.toml"), dialect).unwrap();
    let config = with_tokens(&simulator, PACING).replace("\"openai\"", "\"./dialect.toml\"");
    let gateway = Gateway::start_in(folder, &config);
    (simulator, gateway)
}

/// Checks that the answer is the upstream's own.
#[track_caller]
fn assert_passed_on(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.header("x-pacegate-error"), "");
    assert!(answer.json()["error"]["message"].is_string());
}

#[tokio::test]
async fn a_token_that_is_refused_again_and_again_costs_three_renewals_and_one_line() {
    const LINE: &str = "The upstream refuses renewed tokens";
    for status in [401, 403] {
        let (simulator, gateway) = refused_with(status).await;
        let start = Instant::now();
        for _ in 0..8 {
            for answer in join_all((0..5).map(|_| gateway.chat(plain("m")))).await {
                assert_passed_on(&answer.unwrap(), status);
            }
        }
        for _ in 0..20 {
            assert_passed_on(&gateway.chat(plain("m")).await.unwrap(), status);
        }
        if start.elapsed() < Duration::from_secs(120) {
            assert_eq!(refreshes(&simulator), 3, "{status}");
        } else {
            not_judged("how often a token is renewed: it took too long");
        }
        gateway.logged(LINE).await;
        assert_eq!(gateway.log().matches(LINE).count(), 1);
        // What the upstream does not refuse goes on.
        let url = gateway.url("/v1/embeddings");
        assert_ok(&post_json(&url, plain("m"), &[]).await.unwrap());

        simulator.set_faults(Vec::new());
        assert_ok(&gateway.chat(plain("m")).await.unwrap());
    }
}

#[tokio::test]
async fn a_refused_api_key_is_sent_once_for_each_request_and_the_answer_passed_on() {
    let simulator = simulator(Options {
        access: Access::Tokens(vec!["sk-other".to_owned()]),
        ..Options::default()
    })
    .await;
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("key"), "sk-refused\n").unwrap();
    let more = "dialect = \"openai\"\npipeline = [\"token-refresh\", \"bearer-auth\"]\n\
                [upstream.credentials]\nkind = \"api-key\"\nkey = { file = \"key\" }";
    let gateway = Gateway::start_in(folder, &upstream(&simulator.base_url(), more));
    for _ in 0..5 {
        assert_passed_on(&gateway.chat(plain("m")).await.unwrap(), 401);
    }
    assert_eq!(simulator.arrivals().len(), 5);
}
