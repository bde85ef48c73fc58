//! The source under a paused clock, with an endpoint that is a function.

use std::{
    collections::VecDeque,
    fs,
    sync::atomic::{AtomicU32, Ordering},
};

use tempfile::TempDir;
use tokio::time::sleep;

use super::*;
use crate::credentials::store::OAuthCredentials;

mod failures;
mod rejections;

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn gives_a_valid_token_without_asking() {
    let fixture = Fixture::new().with_token("one", HOUR);
    let source = fixture.source();
    assert_eq!(bearer(source.token().await), "Bearer one");
    assert_eq!(fixture.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn ten_refreshes_of_one_token_ask_once() {
    let fixture = Fixture::new().with_token("one", HOUR);
    let source = fixture.source();
    let stale = source.token().await.unwrap();
    let waiting: Vec<_> = (0..10).map(|_| source.refresh(&stale)).collect();
    for token in waiting {
        assert_eq!(bearer(token.await), "Bearer access-1");
    }
    assert_eq!(bearer(source.refresh(&stale).await), "Bearer access-1");
    assert_eq!(fixture.calls(), 1);
    assert!(fixture.content().contains("refresh-1"));
}

#[tokio::test(start_paused = true)]
async fn refreshes_early_while_the_old_token_serves() {
    let fixture = Fixture::new().with_token("one", HOUR);
    let source = fixture.source();
    sleep(HOUR - 4 * MINUTE).await;
    for _ in 0..3 {
        assert_eq!(bearer(source.token().await), "Bearer one");
    }
    sleep(SECOND).await;
    assert_eq!(bearer(source.token().await), "Bearer access-1");
    assert_eq!(fixture.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_lives_shorter_than_early_is_not_refreshed_all_the_time() {
    let fixture = Fixture::new().with_token("one", Duration::ZERO);
    fixture.lifetime.store(60, Ordering::Relaxed);
    let source = fixture.source();
    for _ in 0..40 {
        source.token().await.unwrap();
        sleep(SECOND).await;
    }
    assert_eq!(fixture.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn callers_that_find_it_expired_wait_for_one_refresh() {
    let fixture = Fixture::new().with_token("one", SECOND);
    let source = fixture.source();
    sleep(2 * SECOND).await;
    let waiting: Vec<_> = (0..10).map(|_| source.token()).collect();
    for token in waiting {
        assert_eq!(bearer(token.await), "Bearer access-1");
    }
    assert_eq!(fixture.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_does_not_stop_the_refresh() {
    let fixture = Fixture::new().with_token("one", Duration::ZERO);
    let source = fixture.source();
    drop(source.token());
    sleep(SECOND).await;
    assert!(fixture.content().contains("refresh-1"));
    assert_eq!(bearer(source.token().await), "Bearer access-1");
    assert_eq!(fixture.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_failing_endpoint_is_asked_once_a_minute_while_the_valid_token_serves() {
    let fixture = Fixture::new().with_token("one", HOUR);
    fixture.always(503, "busy");
    let source = fixture.source();
    sleep(HOUR - 4 * MINUTE).await;
    for _ in 0..100 {
        assert_eq!(bearer(source.token().await), "Bearer one");
        sleep(Duration::from_millis(1250)).await;
    }
    assert_eq!(fixture.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn is_unavailable_once_the_token_expired_and_the_endpoint_fails() {
    let fixture = Fixture::new().with_token("one", Duration::ZERO);
    fixture.then(200, "not json");
    let source = fixture.source();
    let error = source.token().await.unwrap_err();
    assert!(matches!(error, TokenError::Unavailable(_)), "{error}");
    assert!(matches!(
        source.token().await,
        Err(TokenError::Unavailable(_))
    ));
    assert_eq!(fixture.calls(), 1);
    sleep(MINUTE).await;
    assert_eq!(bearer(source.token().await), "Bearer access-2");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_hangs_is_given_up_and_the_lock_released_within_ten_seconds() {
    let fixture = Fixture::new().with_token("one", Duration::ZERO);
    fixture.latency_ms.store(60_000, Ordering::Relaxed);
    let start = Instant::now();
    assert!(matches!(
        fixture.source().token().await,
        Err(TokenError::Unavailable(_))
    ));
    assert!(start.elapsed() < 10 * SECOND);
    assert!(!fixture.settings.file.with_extension("lock").exists());
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_that_cannot_be_refreshed_now_is_returned() {
    let fixture = Fixture::new().with_token("one", HOUR);
    fixture.always(500, "");
    let source = fixture.source();
    let stale = source.token().await.unwrap();
    let same = source.refresh(&stale).await.unwrap();
    assert_eq!(same.generation(), stale.generation());
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_remembered_until_the_file_changes() {
    let fixture = Fixture::new().with_token("one", Duration::ZERO);
    fixture.always(
        400,
        r#"{"error":"invalid_grant","error_description":"no canary-one here"}"#,
    );
    let source = fixture.source();
    for _ in 0..3 {
        let text = login_required(source.token().await);
        assert!(
            text.contains("creds.json") && text.contains("invalid_grant"),
            "{text}"
        );
        assert!(
            text.ends_with("; log in, then send the request again"),
            "{text}"
        );
        assert!(!text.contains("canary"), "{text}");
    }
    assert_eq!(fixture.calls(), 1);
    assert!(
        fixture.content().contains("canary-one"),
        "the file is left alone"
    );

    let _fixture = fixture.with_token("two", HOUR);
    sleep(5 * SECOND).await;
    assert_eq!(bearer(source.token().await), "Bearer two");
}

#[tokio::test(start_paused = true)]
async fn a_refused_refresh_leaves_the_valid_token_in_use() {
    let fixture = Fixture::new().with_token("one", HOUR);
    fixture.always(400, r#"{"error":"invalid_grant"}"#);
    let source = fixture.source();
    sleep(HOUR - 4 * MINUTE).await;
    for _ in 0..10 {
        assert_eq!(bearer(source.token().await), "Bearer one");
        sleep(SECOND).await;
    }
    assert_eq!(fixture.calls(), 1);
    sleep(4 * MINUTE).await;
    login_required(source.token().await);
}

#[tokio::test(start_paused = true)]
async fn a_login_is_picked_up_where_there_was_no_file() {
    let fixture = Fixture::new();
    let source = fixture.source();
    let text = login_required(source.token().await);
    assert!(
        text.starts_with("no credentials in ") && text.contains("creds.json"),
        "{text}"
    );
    let fixture = fixture.with_token("one", HOUR);
    sleep(5 * SECOND).await;
    assert_eq!(bearer(source.token().await), "Bearer one");
    assert_eq!(fixture.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_half_written_login_is_waited_for() {
    let fixture = Fixture::new().with_token("one", HOUR);
    let whole = fixture.content();
    fs::write(&fixture.settings.file, &whole[..20]).unwrap();
    let source = fixture.source();
    let path = fixture.settings.file.clone();
    let writer = TaskTracker::new();
    writer.spawn(async move {
        sleep(Duration::from_millis(60)).await;
        fs::write(path, whole).unwrap();
    });
    assert_eq!(bearer(source.token().await), "Bearer one");
}

#[tokio::test(start_paused = true)]
async fn a_broken_file_is_named_and_not_shown() {
    let fixture = Fixture::new();
    fs::write(&fixture.settings.file, r#"{"access_token":"canary"#).unwrap();
    let text = login_required(fixture.source().token().await);
    assert!(
        text.contains("creds.json is not a complete credentials file"),
        "{text}"
    );
    assert!(!text.contains("canary"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_file_takes_nothing_away_and_is_written_again() {
    let fixture = Fixture::new().with_token("one", HOUR);
    let source = fixture.source();
    fs::remove_file(&fixture.settings.file).unwrap();
    sleep(6 * SECOND).await;
    let stale = source.token().await.unwrap();
    assert_eq!(stale.header(), "Bearer one");
    assert_eq!(bearer(source.refresh(&stale).await), "Bearer access-1");
    assert!(fixture.content().contains("refresh-1"));
}

#[tokio::test(start_paused = true)]
async fn a_token_that_another_program_refreshed_is_picked_up_without_a_request() {
    let fixture = Fixture::new().with_token("one", SECOND);
    let source = fixture.source();
    sleep(2 * SECOND).await;
    let fixture = fixture.with_token("two", HOUR);
    assert_eq!(bearer(source.token().await), "Bearer two");
    assert_eq!(fixture.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_rotates_while_we_ask_wins() {
    for answer in [None, Some((400, r#"{"error":"invalid_grant"}"#))] {
        let fixture = Fixture::new().with_token("one", Duration::ZERO);
        if let Some((status, body)) = answer {
            fixture.then(status, body);
        }
        let source = fixture.source();
        let token = source.token();
        sleep(Duration::from_millis(50)).await;
        let fixture = fixture.with_token("peer", HOUR);
        assert_eq!(bearer(token.await), "Bearer peer");
        assert!(fixture.content().contains("canary-peer"));
        assert_eq!(fixture.calls(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_cannot_be_stored_is_used_and_stored_later() {
    let fixture = Fixture::new().with_token("one", Duration::ZERO);
    let source = fixture.source();
    let (path, aside) = (
        &fixture.settings.file,
        fixture.directory.path().join("aside"),
    );
    let token = source.token();
    sleep(Duration::from_millis(50)).await;
    fs::rename(path, &aside).unwrap();
    fs::create_dir(path).unwrap();
    assert_eq!(bearer(token.await), "Bearer access-1");

    fs::remove_dir(path).unwrap();
    fs::rename(&aside, path).unwrap();
    sleep(30 * SECOND).await;
    assert_eq!(
        bearer(source.token().await),
        "Bearer access-1",
        "the file's is older"
    );
    sleep(31 * SECOND).await;
    source.token().await.unwrap();
    sleep(SECOND).await;
    assert!(fixture.content().contains("refresh-1"));
    assert_eq!(fixture.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_not_stored_yet_is_not_given_up_for_the_older_one_in_a_touched_file() {
    let fixture = Fixture::new().with_token("one", HOUR);
    let source = fixture.source();
    let stale = source.token().await.unwrap();
    let (path, aside) = (
        &fixture.settings.file,
        fixture.directory.path().join("aside"),
    );
    let token = source.refresh(&stale);
    sleep(Duration::from_millis(50)).await;
    fs::rename(path, &aside).unwrap();
    fs::create_dir(path).unwrap();
    assert_eq!(bearer(token.await), "Bearer access-1");

    fs::remove_dir(path).unwrap();
    fs::copy(&aside, path).unwrap();
    sleep(6 * SECOND).await;
    assert_eq!(bearer(source.token().await), "Bearer access-1");
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_in_the_file_is_used_once_ours_has_expired_too() {
    let fixture = Fixture::new().with_token("one", MINUTE);
    fixture.then(400, r#"{"error":"invalid_grant"}"#);
    let source = fixture.source();
    sleep(50 * SECOND).await;
    assert_eq!(bearer(source.token().await), "Bearer one");
    sleep(SECOND).await;
    let fixture = fixture.with_token("login", Duration::ZERO);
    sleep(5 * SECOND).await;
    assert_eq!(bearer(source.token().await), "Bearer one");
    sleep(MINUTE).await;
    assert_eq!(bearer(source.token().await), "Bearer access-2");
    assert_eq!(fixture.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn follows_an_allowed_resource_url_and_no_other() {
    let fixture = Fixture::new().with_token("one", HOUR);
    let source = fixture.source();
    let mut changes = source.resource_changes();
    assert_eq!(source.resource_base().unwrap(), "https://portal.example/v1");
    changes.mark_unchanged();

    let mut credentials = fixture.credentials("two", HOUR);
    credentials.resource_url = Some("evil.example".to_owned());
    CredentialsFile::new(&fixture.settings.file)
        .write(&credentials)
        .unwrap();
    sleep(5 * SECOND).await;
    source.token().await.unwrap();
    changes.changed().await.unwrap();
    assert_eq!(source.resource_base(), None);
}

#[tokio::test(start_paused = true)]
async fn debug_output_holds_no_token() {
    let fixture = Fixture::new().with_token("one", HOUR);
    let shown = format!("{:?}", fixture.source());
    assert!(
        shown.contains("creds.json") && !shown.contains("one"),
        "{shown}"
    );
}

fn bearer(token: Result<BearerToken, TokenError>) -> String {
    token.unwrap().header().to_str().unwrap().to_owned()
}

#[track_caller]
fn login_required(token: Result<BearerToken, TokenError>) -> String {
    match token {
        Err(TokenError::LoginRequired(text)) => text,
        other => panic!("{other:?}"),
    }
}

/// A credentials file, an endpoint and a clock.
struct Fixture {
    directory: TempDir,
    settings: Settings,
    calls: Arc<AtomicU32>,
    lifetime: Arc<AtomicU32>,
    latency_ms: Arc<AtomicU32>,
    answers: Arc<Mutex<Answers>>,
}

/// The endpoint's responses; issues a token where none is planned.
#[derive(Default)]
struct Answers {
    planned: VecDeque<(u16, String)>,
    always: Option<(u16, String)>,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (start, base) = (Instant::now(), SystemTime::now());
        let settings = Settings {
            file: directory.path().join("creds.json"),
            endpoint: TokenEndpoint::new(Uri::from_static("https://id.example/token"), "client"),
            early: 5 * MINUTE,
            resource_hosts: vec!["portal.example".to_owned()],
            login_hint: "log in, then send the request again".to_owned(),
            wall_clock: Arc::new(move || base + start.elapsed()),
        };
        Self {
            directory,
            settings,
            calls: Arc::default(),
            lifetime: Arc::new(3600.into()),
            latency_ms: Arc::new(100.into()),
            answers: Arc::default(),
        }
    }

    fn credentials(&self, name: &str, lifetime: Duration) -> OAuthCredentials {
        let expiry = (self.settings.wall_clock)() + lifetime;
        let since_1970 = expiry.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        OAuthCredentials {
            access_token: name.into(),
            token_type: "Bearer".to_owned(),
            refresh_token: format!("canary-{name}").into(),
            resource_url: Some("portal.example".to_owned()),
            expiry_date: u64::try_from(since_1970.as_millis()).unwrap(),
        }
    }

    fn with_token(self, name: &str, lifetime: Duration) -> Self {
        let credentials = self.credentials(name, lifetime);
        CredentialsFile::new(&self.settings.file)
            .write(&credentials)
            .unwrap();
        self
    }

    fn source(&self) -> OAuthSource {
        let (calls, answers) = (self.calls.clone(), self.answers.clone());
        let (lifetime, latency) = (self.lifetime.clone(), self.latency_ms.clone());
        let endpoint = tower::service_fn(move |_request: Request<Full<Bytes>>| {
            let call = calls.fetch_add(1, Ordering::Relaxed) + 1;
            let lifetime = lifetime.load(Ordering::Relaxed);
            let latency = Duration::from_millis(latency.load(Ordering::Relaxed).into());
            let mut answers = answers.lock();
            let planned = answers
                .planned
                .pop_front()
                .or_else(|| answers.always.clone());
            let (status, body) = planned.unwrap_or_else(|| {
                let body = format!(
                    r#"{{"access_token":"access-{call}","refresh_token":"refresh-{call}",
                        "token_type":"Bearer","expires_in":{lifetime}}}"#
                );
                (200, body)
            });
            async move {
                sleep(latency).await;
                let mut response = Response::new(Full::<Bytes>::from(body));
                *response.status_mut() = status.try_into().unwrap();
                Ok::<_, BoxError>(response)
            }
        });
        OAuthSource::new(self.settings.clone(), endpoint, TaskTracker::new())
    }

    fn then(&self, status: u16, body: &str) {
        self.answers
            .lock()
            .planned
            .push_back((status, body.to_owned()));
    }

    fn always(&self, status: u16, body: &str) {
        self.answers.lock().always = Some((status, body.to_owned()));
    }

    fn calls(&self) -> u32 {
        self.calls.load(Ordering::Relaxed)
    }

    fn content(&self) -> String {
        fs::read_to_string(&self.settings.file).unwrap()
    }
}
