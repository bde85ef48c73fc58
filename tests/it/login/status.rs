//! `pacegate status` and `logout`, and a gateway that takes up a login.

use std::{fs, process::Command, time::Duration};

use serde_json::Value;
use tokio::time::sleep;

use super::{Home, Said, simulator};
use crate::support::{
    gateway::{Gateway, PATIENCE},
    lateness::Lateness,
};

#[tokio::test]
async fn logout_forgets_only_when_it_may() {
    let home = Home::new("http://127.0.0.1:1");
    home.write_login(1);
    let said = home.run(&["logout"]).await;
    assert_eq!(said.code, Some(2), "{}", said.stderr);
    assert_eq!(
        said.stderr,
        "error: there is no terminal to ask on\n  hint: add --yes\n"
    );
    assert_eq!(home.left_behind(), ["oauth_creds.json"]);

    let said = home.run(&["logout", "--yes"]).await;
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(
        said.stdout.starts_with("logged out of qwen: "),
        "{}",
        said.stdout
    );
    assert_eq!(home.left_behind(), [""; 0]);

    let said = home.run(&["logout", "--yes", "--json"]).await;
    let said: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(
        (&said["upstream"], &said["forgotten"]),
        (&"qwen".into(), &false.into())
    );
}

#[tokio::test]
async fn status_tells_each_kind_of_login_and_no_secret() {
    let home = Home::new("http://127.0.0.1:1");
    let json = async || -> Value {
        let said = home.run(&["status", "--json"]).await;
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        assert!(!said.stdout.contains("canary"), "{}", said.stdout);
        serde_json::from_str(&said.stdout).unwrap()
    };
    let before = json().await;
    assert_eq!(before[0]["kind"], "oauth");
    assert_eq!(before[0]["state"], "logged-out");
    assert_eq!(before[0]["quotas"][1]["left"], 1000);
    assert_eq!(before[1]["kind"], "api-key");
    assert_eq!(before[1]["from"], "env OPENAI_API_KEY");
    assert_eq!(before[1]["state"], "found");
    assert_eq!(before[2]["kind"], "none");

    home.write_login(4_000_000_000_000);
    let after = json().await;
    assert_eq!(after[0]["state"], "logged-in");
    assert_eq!(after[0]["expires"], "2096-10-02T07:06:40Z");
    assert!(after[0]["refreshed"].is_string());
    let said = home.run(&["status", "--upstream", "qwen"]).await;
    assert!(
        said.stdout
            .contains("logged in until 2096-10-02 07:06:40 UTC (for "),
        "{}",
        said.stdout
    );
    assert!(
        said.stdout
            .contains("quota      1000 left of 1000 per day (Asia/Shanghai)\n")
    );

    home.write_login(1);
    let said = home.run(&["status"]).await;
    assert!(
        said.stdout.contains("the token has expired at 1970-01-01"),
        "{}",
        said.stdout
    );
    assert!(
        said.stdout
            .contains("upstream open\n  login      none needed\n")
    );
    fs::write(home.credentials(), "{").unwrap();
    fs::create_dir_all(home.path(".local/state/pacegate")).unwrap();
    let counts = home.path(".local/state/pacegate/quotas-qwen.json");
    fs::write(&counts, "{").unwrap();
    let broken = json().await;
    assert_eq!(broken[0]["state"], "unreadable");
    let why = broken[0]["quotas_unknown"].as_str().unwrap();
    assert!(why.contains("the state file is not readable"), "{why}");
    assert!(counts.exists(), "only looked at");
}

#[tokio::test]
async fn a_key_that_is_missing_elsewhere_stops_neither_login_nor_status_nor_logout() {
    let simulator = simulator(&[]).await;
    let home = Home::new(&simulator.origin());
    let config = home.path("pacegate.toml");
    let keyed = "client-keys = [{ file = \"nowhere\" }]\n";
    let config_of_all = keyed.to_owned() + &fs::read_to_string(&config).unwrap();
    fs::write(&config, config_of_all).unwrap();
    let run = async |arguments: &[&str]| {
        let mut command = home.command(arguments);
        command.env_remove("OPENAI_API_KEY");
        Said::by(command).await
    };
    let said = run(&["login", "--no-browser"]).await;
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert_eq!(home.left_behind(), ["oauth_creds.json"]);

    let said = run(&["status"]).await;
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    for words in [
        "logged in until ",
        "upstream keyed\n  API key    none in env OPENAI_API_KEY: it is not set; put it there\n",
    ] {
        assert!(said.stdout.contains(words), "{words}: {}", said.stdout);
    }
    let said = run(&["status", "--json", "--upstream", "keyed"]).await;
    let status: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(status[0]["state"], "missing");
    assert_eq!(status[0]["from"], "env OPENAI_API_KEY");
    assert_eq!(status[0]["problem"], "it is not set");

    let said = run(&["logout", "--yes"]).await;
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert_eq!(home.left_behind(), [""; 0]);

    // These commands send requests with the keys, or check that they can.
    for verb in ["check", "serve"] {
        let said = run(&[verb]).await;
        assert_eq!(said.code, Some(78), "{verb}");
        for reference in ["file ", "env OPENAI_API_KEY"] {
            let words = format!("no secret in {reference}");
            assert!(said.stderr.contains(&words), "{}", said.stderr);
        }
    }
}

#[tokio::test]
async fn status_reads_the_quotas_of_a_gateway_that_runs_and_its_login_is_used_at_once() {
    let simulator = simulator(&[]).await;
    let origin = simulator.origin();
    let config = format!(
        "state-dir = \"state\"\n[[upstream]]\nname = \"qwen\"\npreset = \"qwen-oauth\"\n\
         base-url = \"{origin}/v1\"\n[upstream.credentials]\nfile = \".qwen/oauth_creds.json\"\n\
         device-code-url = \"{origin}/api/v1/oauth2/device/code\"\n\
         token-url = \"{origin}/api/v1/oauth2/token\"\n"
    );
    let gateway = Gateway::start(&config);
    let body = r#"{"model":"coder-model","messages":[]}"#;
    let refused = gateway.chat(body).await.unwrap();
    assert_eq!(refused.status, 401);
    assert!(
        refused
            .text()
            .contains("run `pacegate login --upstream qwen`"),
        "{}",
        refused.text()
    );

    let run = async |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pacegate"));
        command
            .args(arguments)
            .args(["--config", "pacegate.toml"])
            .current_dir(gateway.folder())
            .env_clear()
            .env("HOME", gateway.folder());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap());
        let output = output.await.unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    run(&["login", "--no-browser"]).await;
    // Within the five seconds in which the file is not looked at again.
    let lateness = Lateness::watch();
    let written = tokio::time::Instant::now();
    while gateway.chat(body).await.unwrap().status != 200 {
        assert!(written.elapsed() < PATIENCE, "the login is not picked up");
        sleep(Duration::from_millis(200)).await;
    }
    let took = written.elapsed();
    lateness.assert_within("picking up a login", took, Duration::from_secs(6));
    let status: Value = serde_json::from_str(&run(&["status", "--json"]).await).unwrap();
    assert_eq!(status[0]["state"], "logged-in");
    let left = status[0]["quotas"][1]["left"].as_u64();
    assert!((900..1000).contains(&left.unwrap()), "{left:?}");
}
