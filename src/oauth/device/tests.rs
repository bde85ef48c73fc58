use std::{collections::VecDeque, convert::Infallible, sync::Arc};

use http_body_util::BodyExt;
use parking_lot::Mutex;
use tower::{service_fn, util::BoxCloneSyncService};

use super::*;

type Mock = BoxCloneSyncService<Request<Full<Bytes>>, Response<Full<Bytes>>, Infallible>;

const PENDING: (u16, &str) = (400, r#"{"error":"authorization_pending"}"#);
const SLOW: (u16, &str) = (400, r#"{"error":"slow_down"}"#);
const TOKEN: (u16, &str) = (200, r#"{"access_token":"token","expires_in":60}"#);

/// The result of polling, the seconds at which polls arrived, and the events.
struct Polled {
    outcome: Result<IssuedTokens, LoginError>,
    at: Vec<u64>,
    told: Vec<PollEvent>,
    took: u64,
}

/// A server that sends these responses in order, then none.
fn server(answers: &[(u16, &'static str)]) -> (Mock, Arc<Mutex<Vec<Instant>>>) {
    let answers = Arc::new(Mutex::new(answers.iter().copied().collect::<VecDeque<_>>()));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let times = seen.clone();
    let service = service_fn(move |_request| {
        times.lock().push(Instant::now());
        let answer = answers.lock().pop_front();
        async move {
            let Some((status, body)) = answer else {
                return std::future::pending().await;
            };
            let mut response = Response::new(Full::from(body));
            *response.status_mut() = status.try_into().unwrap();
            Ok(response)
        }
    });
    (BoxCloneSyncService::new(service), seen)
}

fn endpoint() -> DeviceEndpoint {
    DeviceEndpoint {
        url: Uri::from_static("https://id.example/device"),
        scope: "openid".into(),
        token: TokenEndpoint::new(Uri::from_static("https://id.example/token"), "client"),
    }
}

fn login(more: &str) -> DeviceAuthorization {
    let body = format!(
        r#"{{"device_code":"canary","user_code":"AB","verification_uri":"https://id.example",{more}}}"#
    );
    DeviceAuthorization::parse(body.as_bytes()).unwrap()
}

async fn polls(answers: &[(u16, &'static str)]) -> Polled {
    let (service, seen) = server(answers);
    let start = Instant::now();
    let verifier = Verifier::generate(&mut rand::rng());
    let login = login(r#""expires_in":60,"interval":4"#);
    let mut told = Vec::new();
    let outcome = poll(service, &endpoint().token, &login, &verifier, |it| {
        told.push(it)
    })
    .await;
    let seen = seen.lock();
    Polled {
        outcome,
        at: seen.iter().map(|it| (*it - start).as_secs()).collect(),
        told,
        took: start.elapsed().as_secs(),
    }
}

#[tokio::test(start_paused = true)]
async fn polls_at_the_interval_and_never_at_once() {
    let polled = polls(&[PENDING, PENDING, TOKEN]).await;
    assert_eq!(polled.at, [4, 8, 12]);
    assert!(polled.outcome.is_ok() && polled.told.is_empty());
}

#[tokio::test(start_paused = true)]
async fn each_slow_down_adds_five_seconds_for_good_whatever_its_status() {
    let words = (429, r#"{"error":"slow_down"}"#);
    let polled = polls(&[PENDING, SLOW, words, PENDING, TOKEN]).await;
    assert_eq!(polled.at, [4, 8, 17, 31, 45]);
    assert_eq!(polled.told.len(), 2);
    let polled = polls(&[(429, "<html>"), TOKEN]).await;
    assert_eq!(polled.at, [4, 13]);
}

#[tokio::test(start_paused = true)]
async fn what_may_pass_is_asked_again() {
    let failures = [
        (500, r#"{"error":"access_denied"}"#),
        (200, r#"{"access_tok"#),
        (200, "{}"),
        (404, "<html>"),
        (400, r#"{"error":"temporarily_unavailable"}"#),
    ];
    for failure in failures {
        let polled = polls(&[failure, TOKEN]).await;
        assert_eq!(polled.at, [4, 8], "{failure:?}");
        assert!(matches!(polled.told[..], [PollEvent::Transient(_)]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_time_out_doubles_the_interval_and_the_expiry_ends_it() {
    let polled = polls(&[]).await;
    assert!(matches!(polled.outcome, Err(LoginError::Expired)));
    // Each poll times out after eight seconds; the next would start at 4 + 8 + 8 + 8 + 16 + 8 + 32.
    assert_eq!(polled.at, [4, 20, 44]);
    assert_eq!(polled.took, 60);
}

#[tokio::test(start_paused = true)]
async fn a_no_is_final_and_repeats_no_code() {
    let no = polls(&[(400, r#"{"error":"access_denied"}"#)]).await;
    assert!(matches!(no.outcome, Err(LoginError::Denied)));
    let old = polls(&[(400, r#"{"error":"expired_token"}"#)]).await;
    assert!(matches!(old.outcome, Err(LoginError::Expired)));
    let other = r#"{"error":"invalid_grant","error_description":"no canary\u001b here"}"#;
    let refused = polls(&[(401, other)]).await;
    assert_eq!(
        refused.outcome.unwrap_err().to_string(),
        "the login was refused: invalid_grant (no … here)"
    );
    assert_eq!(refused.at, [4]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_repeats_the_whole_request_shows_neither_code_nor_verifier() {
    let service = service_fn(|request: Request<Full<Bytes>>| async {
        let form = request.into_body().collect().await?.to_bytes();
        let form = String::from_utf8_lossy(&form);
        let body = format!(r#"{{"error":"invalid_request","error_description":"{form}"}}"#);
        let mut response = Response::new(Full::<Bytes>::from(body));
        *response.status_mut() = StatusCode::BAD_REQUEST;
        Ok::<_, Infallible>(response)
    });
    let verifier = Verifier::generate(&mut rand::rng());
    let login = login(r#""expires_in":60"#);
    let refused = poll(service, &endpoint().token, &login, &verifier, |_| ()).await;
    let text = refused.unwrap_err().to_string();
    assert!(text.ends_with("&device_code=…&code_verifier=…)"), "{text}");
}

#[tokio::test]
async fn an_answer_is_read_as_it_comes_and_trusted_in_nothing() {
    let usual = login(r#""expires_in":900"#);
    assert_eq!(usual.interval, Duration::from_secs(5));
    assert!(!format!("{usual:?}").contains("canary"));
    assert_eq!(
        login(r#""expires_in":1e9,"interval":0"#).interval,
        MIN_INTERVAL
    );
    let odd = login(r#""expires_in":1,"verification_uri_complete":"file:///etc/passwd""#);
    assert_eq!(odd.verification_uri_complete, None);

    let verifier = Verifier::generate(&mut rand::rng());
    for (status, body, words) in [
        (200, "<html>", "not the JSON of a login"),
        (
            200,
            r#"{"device_code":"c","user_code":"u","verification_uri":"javascript:x","expires_in":1}"#,
            "no http or https URL",
        ),
        (503, "", "status 503"),
        (
            400,
            r#"{"error":"invalid_client"}"#,
            "refused: invalid_client",
        ),
    ] {
        let (service, _) = server(&[(status, body)]);
        let error = begin(service, &endpoint(), &verifier).await.unwrap_err();
        let error: BoxError = error.into();
        let text = pacegate_layers::error::chain_text(&*error).to_string();
        assert!(text.contains(words), "{text}");
    }
}
