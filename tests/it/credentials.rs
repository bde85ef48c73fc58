//! The credentials file as other programs see it: real files, real time, several threads.

use std::{
    collections::HashSet,
    fs::{self, File},
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use pacegate::{
    credentials::{
        lock::{CredentialsLock, LockError},
        source::{OAuthSource, Settings},
        store::{CredentialsFile, OAuthCredentials, ReadError, WriteError},
    },
    oauth::refresh::TokenEndpoint,
    wall_clock::{WallClock, system_clock},
};
use pacegate_layers::{error::BoxError, token::TokenSource};
use tempfile::{TempDir, tempdir};
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;
use tower::util::BoxCloneSyncService;

use crate::support::gateway::PATIENCE;

mod leftovers;
mod processes;

#[test]
fn a_written_file_is_private_complete_and_newer() {
    let directory = tempdir().unwrap();
    let file = CredentialsFile::new(directory.path().join("home/.tool/oauth_creds.json"));
    file.write(&credentials(1, 5)).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(file.path()), 0o600);
    assert_eq!(mode(file.path().parent().unwrap()), 0o700);
    assert_eq!(
        fs::read_to_string(file.path()).unwrap(),
        "{\n  \"access_token\": \"access-1\",\n  \"token_type\": \"Bearer\",\n  \
         \"refresh_token\": \"refresh-1\",\n  \"resource_url\": \"portal.example\",\n  \
         \"expiry_date\": 5\n}"
    );

    // A file from the future, as after a clock that was set back.
    let ahead = SystemTime::now() + Duration::from_secs(3600);
    File::options()
        .write(true)
        .open(file.path())
        .unwrap()
        .set_modified(ahead)
        .unwrap();
    fs::set_permissions(file.path(), fs::Permissions::from_mode(0o644)).unwrap();
    let stamp = file.write(&credentials(2, 6)).unwrap();
    assert!(stamp.modified() > ahead);
    assert_eq!(file.version(), Some(stamp));
    assert_eq!(mode(file.path()), 0o600);
}

#[test]
fn what_is_not_a_regular_file_is_neither_read_nor_replaced() {
    let directory = tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let target = in_directory(&directory);
    target.write(&credentials(1, 5)).unwrap();
    symlink(target.path(), at("link")).unwrap();
    symlink(at("nowhere"), at("dangling")).unwrap();
    fs::create_dir(at("directory")).unwrap();
    assert!(
        Command::new("mkfifo")
            .arg(at("pipe"))
            .status()
            .unwrap()
            .success()
    );
    for name in ["link", "dangling", "directory", "pipe"] {
        let file = CredentialsFile::new(at(name));
        assert!(
            matches!(file.read_once(), Err(ReadError::NotRegular(_))),
            "{name}"
        );
        assert!(
            matches!(
                file.write(&credentials(2, 6)),
                Err(WriteError::NotRegular(_))
            ),
            "{name}"
        );
        assert_eq!(file.version(), None, "{name}");
    }
    assert!(
        fs::read_to_string(target.path())
            .unwrap()
            .contains("access-1")
    );
}

#[tokio::test]
async fn a_missing_a_broken_and_a_huge_file_are_told_apart() {
    let directory = tempdir().unwrap();
    let file = in_directory(&directory);
    assert!(matches!(file.read().await, Err(ReadError::Missing(_))));
    for content in [
        "",
        "{",
        "[]",
        "{\"access_token\":\"canary\"}",
        &" ".repeat(100_000),
    ] {
        fs::write(file.path(), content).unwrap();
        let error = file.read().await.unwrap_err();
        assert!(matches!(error, ReadError::Malformed { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("oauth_creds.json") && !text.contains("canary"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_file_written_in_place_is_read_once_it_is_whole() {
    let directory = tempdir().unwrap();
    let file = in_directory(&directory);
    file.write(&credentials(1, 5)).unwrap();
    let whole = fs::read_to_string(file.path()).unwrap();
    fs::write(file.path(), &whole[..30]).unwrap();
    let (read, ()) = tokio::join!(file.read(), async {
        sleep(Duration::from_millis(40)).await;
        fs::write(file.path(), &whole).unwrap();
    });
    assert_eq!(read.unwrap().credentials.expiry_date, 5);
}

#[tokio::test]
async fn the_lock_is_the_other_programs_lock() {
    let directory = tempdir().unwrap();
    let file = in_directory(&directory);
    let path = directory.path().join("oauth_creds.lock");
    let lock = CredentialsLock::acquire(file.path(), &system_clock())
        .await
        .unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap().len(), 36);
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    drop(lock);
    assert!(names(directory.path()).is_empty());
}

#[tokio::test]
async fn a_lock_is_waited_for_and_then_taken() {
    let directory = tempdir().unwrap();
    let file = in_directory(&directory);
    let held = CredentialsLock::acquire(file.path(), &system_clock())
        .await
        .unwrap();
    let clock = system_clock();
    let (taken, ()) = tokio::join!(CredentialsLock::acquire(file.path(), &clock), async {
        sleep(Duration::from_millis(150)).await;
        drop(held);
    });
    drop(taken.unwrap());
    assert!(names(directory.path()).is_empty());
}

#[tokio::test]
async fn only_a_lock_older_than_35_seconds_is_stolen() {
    let directory = tempdir().unwrap();
    let file = in_directory(&directory);
    let path = directory.path().join("oauth_creds.lock");
    // A clock that stands still: no lock gets older while a machine is busy.
    let now = SystemTime::now();
    let clock: WallClock = Arc::new(move || now);
    for (age, stolen) in [(9, false), (34, false), (36, true)] {
        fs::write(&path, "theirs").unwrap();
        let since = now - Duration::from_secs(age);
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(since)
            .unwrap();
        let patience = if stolen {
            PATIENCE
        } else {
            Duration::from_millis(50)
        };
        let taken = timeout(patience, CredentialsLock::acquire(file.path(), &clock)).await;
        assert_eq!(taken.is_ok(), stolen, "{age}");
        assert_eq!(
            fs::read_to_string(&path).unwrap() == "theirs",
            !stolen,
            "{age}"
        );
        assert_eq!(names(directory.path()), ["oauth_creds.lock"]);
    }
}

#[tokio::test]
async fn a_lock_that_was_lost_is_not_taken_from_its_new_owner() {
    let directory = tempdir().unwrap();
    let file = in_directory(&directory);
    let path = directory.path().join("oauth_creds.lock");
    let lock = CredentialsLock::acquire(file.path(), &system_clock())
        .await
        .unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "theirs").unwrap();
    drop(lock);
    assert_eq!(fs::read_to_string(&path).unwrap(), "theirs");
}

#[tokio::test]
async fn a_lock_in_no_directory_is_an_error_at_once() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("missing/oauth_creds.json");
    let error = CredentialsLock::acquire(&file, &system_clock())
        .await
        .unwrap_err();
    assert!(matches!(error, LockError::Io { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sources_on_one_file_spend_each_refresh_token_once() {
    const EXPIRIES: u64 = 20;
    let directory = tempdir().unwrap();
    let file = in_directory(&directory);
    // Expired from the start, so that both sources find that out at the same time.
    file.write(&credentials(0, 1)).unwrap();
    let endpoint = EndpointClient::default();
    let tasks = TaskTracker::new();
    let sources = [(); 2].map(|()| endpoint.source(&file, tasks.clone()));
    for expiry in 1..=EXPIRIES {
        let mut waiting = Vec::new();
        for source in &sources {
            // The first time, the token in the file has expired; then the upstream refuses it.
            let stale = if expiry == 1 {
                None
            } else {
                Some(source.token().await.unwrap())
            };
            for _request in 0..5 {
                let (source, stale) = (source.clone(), stale.clone());
                waiting.push(tasks.spawn(async move {
                    let token = match stale {
                        None => source.token().await.unwrap(),
                        Some(stale) => source.refresh(&stale).await.unwrap(),
                    };
                    source.accepted(&token);
                    token
                }));
            }
        }
        for token in waiting {
            let token = token.await.unwrap();
            assert_eq!(
                token.header().to_str().unwrap(),
                format!("Bearer access-{expiry}")
            );
        }
        assert_eq!(endpoint.calls(), expiry);
    }
    assert!(
        fs::read_to_string(file.path())
            .unwrap()
            .contains("refresh-20")
    );
    assert_eq!(names(directory.path()), ["oauth_creds.json"]);
}

#[tokio::test]
async fn a_shutdown_waits_for_the_renewal_that_nobody_waits_for() {
    let directory = tempdir().unwrap();
    let file = in_directory(&directory);
    file.write(&credentials(0, 1)).unwrap();
    let endpoint = EndpointClient::default();
    let tasks = TaskTracker::new();
    drop(endpoint.source(&file, tasks.clone()).token());
    tasks.close();
    tasks.wait().await;
    assert!(
        fs::read_to_string(file.path())
            .unwrap()
            .contains("refresh-1")
    );
}

fn in_directory(directory: &TempDir) -> CredentialsFile {
    CredentialsFile::new(directory.path().join("oauth_creds.json"))
}

fn credentials(number: u64, expiry_date: u64) -> OAuthCredentials {
    OAuthCredentials {
        access_token: format!("access-{number}").into(),
        token_type: "Bearer".to_owned(),
        refresh_token: format!("refresh-{number}").into(),
        resource_url: Some("portal.example".to_owned()),
        expiry_date,
    }
}

#[expect(clippy::unwrap_used, reason = "a helper of tests")]
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// A token endpoint whose refresh tokens work once only.
#[derive(Clone, Default)]
struct EndpointClient {
    calls: Arc<AtomicU64>,
    spent: Arc<Mutex<HashSet<String>>>,
}

impl EndpointClient {
    fn source(&self, file: &CredentialsFile, tasks: TaskTracker) -> OAuthSource {
        let settings = Settings {
            file: file.path().to_owned(),
            endpoint: TokenEndpoint::new(Uri::from_static("http://127.0.0.1/token"), "client"),
            early: Duration::from_secs(300),
            resource_hosts: Vec::new(),
            login_hint: "log in".to_owned(),
            wall_clock: system_clock(),
        };
        let endpoint = self.clone();
        let service = tower::service_fn(move |request| endpoint.clone().answer(request));
        // Boxed as the composer's client is.
        OAuthSource::new(settings, BoxCloneSyncService::new(service), tasks)
    }

    #[expect(clippy::unwrap_used, reason = "a helper of tests")]
    async fn answer(
        self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Full<Bytes>>, BoxError> {
        let form = request.into_body().collect().await?.to_bytes();
        sleep(Duration::from_millis(5)).await;
        let form = String::from_utf8(form.to_vec())?;
        if !self.spent.lock().unwrap().insert(form) {
            let body = r#"{"error":"invalid_grant"}"#;
            return Ok(Response::builder().status(400).body(body.into())?);
        }
        let call = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let body = format!(
            r#"{{"access_token":"access-{call}","refresh_token":"refresh-{call}","expires_in":3600}}"#
        );
        Ok(Response::new(body.into()))
    }

    fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }
}
