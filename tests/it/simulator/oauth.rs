//! Tokens: how they are got, and what they open.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use pacegate::simulator::{Access, Behaviour, DeviceAnswer, Options, RefreshFault, Simulator};
use serde_json::{Value, json};
use tokio::time;

use super::start;
use crate::support::client::{Answer, send, whole};

async fn form(simulator: &Simulator, path: &str, fields: &str) -> Answer {
    let url = format!("{}/api/v1/oauth2/{path}", simulator.origin());
    let request = Request::post(url)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Bytes::from(fields.to_owned()))
        .unwrap();
    whole(send(request).await.unwrap()).await.unwrap()
}

async fn models_with(simulator: &Simulator, token: &str) -> StatusCode {
    let request = Request::get(format!("{}/models", simulator.base_url()))
        .header("authorization", format!("Bearer {token}"))
        .body(Bytes::new())
        .unwrap();
    send(request).await.unwrap().status()
}

#[tokio::test]
async fn grants_a_device_after_its_script_and_only_with_the_right_verifier() {
    let simulator = start(Options {
        access: Access::Issued,
        oauth: Behaviour {
            device_answers: vec![DeviceAnswer::Pending, DeviceAnswer::SlowDown],
            slow_down_status: 429,
            resource_url: Some("portal.invalid".to_owned()),
            ..Behaviour::default()
        },
        ..Options::default()
    })
    .await;
    // The vector of RFC 7636, appendix B.
    let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    let challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
    let device = form(
        &simulator,
        "device/code",
        &format!("client_id=c&scope=a%20b&code_challenge={challenge}&code_challenge_method=S256"),
    )
    .await
    .json();
    assert_eq!(device["interval"], 5);
    let ask = async |verifier: &str| {
        let grant = "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Adevice_code";
        let code = device["device_code"].as_str().unwrap();
        let fields =
            format!("grant_type={grant}&client_id=c&device_code={code}&code_verifier={verifier}");
        form(&simulator, "token", &fields).await
    };
    let pending = ask(verifier).await;
    assert_eq!(
        (pending.status.as_u16(), &pending.json()["error"]),
        (400, &json!("authorization_pending"))
    );
    let slower = ask(verifier).await;
    assert_eq!(
        (slower.status.as_u16(), &slower.json()["error"]),
        (429, &json!("slow_down"))
    );
    assert_eq!(ask("wrong").await.json()["error"], "invalid_grant");

    let granted = ask(verifier).await.json();
    assert_eq!(granted["resource_url"], "portal.invalid");
    assert_eq!(
        models_with(&simulator, granted["access_token"].as_str().unwrap()).await,
        StatusCode::OK
    );
    assert_eq!(
        models_with(&simulator, "other").await,
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test]
async fn rotates_a_refresh_token_that_works_once() {
    const LIFETIME: Duration = Duration::from_secs(2);
    let simulator = start(Options {
        access: Access::Issued,
        oauth: Behaviour {
            token_lifetime: LIFETIME,
            refresh_faults: vec![RefreshFault::Failure, RefreshFault::BadJson],
            refresh_once: true,
            ..Behaviour::default()
        },
        ..Options::default()
    })
    .await;
    let first = simulator.issue();
    assert_eq!(
        models_with(&simulator, &first.access_token).await,
        StatusCode::OK
    );
    time::sleep(LIFETIME + Duration::from_millis(10)).await;
    assert_eq!(
        models_with(&simulator, &first.access_token).await,
        StatusCode::UNAUTHORIZED
    );

    simulator.set_token_lifetime(Duration::from_secs(3600));
    let fields = format!(
        "grant_type=refresh_token&refresh_token={}&client_id=c",
        first.refresh_token
    );
    assert_eq!(
        form(&simulator, "token", &fields).await.status,
        StatusCode::INTERNAL_SERVER_ERROR
    );
    let broken = form(&simulator, "token", &fields).await;
    assert!(serde_json::from_slice::<Value>(&broken.body).is_err());
    let second = form(&simulator, "token", &fields).await.json();
    assert_ne!(second["refresh_token"], first.refresh_token);
    assert_eq!(
        models_with(&simulator, second["access_token"].as_str().unwrap()).await,
        StatusCode::OK
    );

    let spent = form(&simulator, "token", &fields).await;
    assert_eq!(
        (spent.status.as_u16(), &spent.json()["error"]),
        (400, &json!("invalid_grant"))
    );
}

#[tokio::test]
async fn a_changed_lifetime_is_that_of_the_tokens_to_come() {
    let simulator = start(Options {
        access: Access::Issued,
        ..Options::default()
    })
    .await;
    let long = simulator.issue().access_token;
    simulator.set_token_lifetime(Duration::ZERO);
    let short = simulator.issue();
    assert_eq!(models_with(&simulator, &long).await, StatusCode::OK);
    let refused = models_with(&simulator, &short.access_token).await;
    assert_eq!(refused, StatusCode::UNAUTHORIZED);
    let fields = format!(
        "grant_type=refresh_token&refresh_token={}",
        short.refresh_token
    );
    let next = form(&simulator, "token", &fields).await.json();
    assert_eq!(next["expires_in"], 0);
}
