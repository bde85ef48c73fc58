//! An endpoint that is down, a file that is replaced by something else, a lock that is lost.

use std::{os::unix::fs::symlink, process::Command};

use super::*;

#[tokio::test(start_paused = true)]
async fn an_endpoint_down_for_ten_minutes_costs_nothing_while_the_old_token_lives() {
    const DOWN: Duration = Duration::from_secs(600);
    let fixture = Fixture::new().with_token("one", HOUR);
    fixture.always(503, "down");
    let source = fixture.source();
    sleep(HOUR - 6 * MINUTE).await;

    let start = Instant::now();
    let mut tries = Vec::new();
    while start.elapsed() < DOWN {
        let token = source.token().await;
        if start.elapsed() < 6 * MINUTE {
            assert_eq!(bearer(token), "Bearer one");
        } else {
            assert!(matches!(token, Err(TokenError::Unavailable(_))));
        }
        sleep(SECOND).await;
        if fixture.calls() > u32::try_from(tries.len()).unwrap() {
            tries.push(start.elapsed());
        }
    }
    assert_eq!(u32::try_from(tries.len()).unwrap(), fixture.calls());
    assert!((8..=9).contains(&tries.len()), "{tries:?}");
    for pair in tries.windows(2) {
        assert!(pair[1] - pair[0] >= MINUTE, "{tries:?}");
    }

    fixture.answers.lock().always = None;
    sleep(MINUTE).await;
    assert!(bearer(source.token().await).starts_with("Bearer access-"));
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_does_not_make_a_failing_endpoint_asked_more_than_once_a_minute() {
    let fixture = Fixture::new().with_token("one", HOUR);
    fixture.always(503, "down");
    let source = fixture.source();
    let stale = source.token().await.unwrap();
    for _ in 0..100 {
        assert_eq!(bearer(source.refresh(&stale).await), "Bearer one");
        sleep(Duration::from_millis(1200)).await;
    }
    assert_eq!(fixture.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_token_without_a_refresh_token_serves_until_it_ends_and_then_asks_for_a_login() {
    let fixture = Fixture::new();
    let write = |name, lifetime| {
        let credentials = OAuthCredentials {
            refresh_token: "".into(),
            ..fixture.credentials(name, lifetime)
        };
        let file = CredentialsFile::new(&fixture.settings.file);
        file.write(&credentials).unwrap();
    };
    write("one", HOUR);
    let source = fixture.source();
    sleep(HOUR - SECOND).await;
    assert_eq!(bearer(source.token().await), "Bearer one");
    sleep(2 * SECOND).await;
    for _ in 0..3 {
        let text = login_required(source.token().await);
        assert!(
            text.contains("creds.json") && text.contains("without a refresh token"),
            "{text}"
        );
    }
    write("two", HOUR);
    sleep(5 * SECOND).await;
    assert_eq!(bearer(source.token().await), "Bearer two");
    assert_eq!(fixture.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_held_refresh_token_is_used_when_the_file_lost_its_own() {
    let fixture = Fixture::new().with_token("one", MINUTE);
    let source = fixture.source();
    sleep(2 * MINUTE).await;
    let credentials = OAuthCredentials {
        refresh_token: "".into(),
        ..fixture.credentials("other", Duration::ZERO)
    };
    let file = CredentialsFile::new(&fixture.settings.file);
    // Between the check and the lock.
    source.0.reload_if_changed();
    file.write(&credentials).unwrap();
    assert_eq!(bearer(source.token().await), "Bearer access-1");
    assert!(fixture.content().contains("refresh-1"));
}

#[tokio::test(start_paused = true)]
async fn a_short_token_of_another_program_is_picked_up_until_its_last_quarter() {
    // The file's modification time stays at the start, so this token lives for two seconds more.
    for (left, expected) in [(4000, "Bearer peer"), (500, "Bearer access-1")] {
        let fixture = Fixture::new().with_token("one", SECOND);
        let source = fixture.source();
        sleep(2 * SECOND).await;
        let _fixture = fixture.with_token("peer", Duration::from_millis(left));
        assert_eq!(bearer(source.token().await), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_vanishes_while_held_changes_nothing_and_its_new_owner_keeps_it() {
    for new_owner in [false, true] {
        let fixture = Fixture::new().with_token("one", Duration::ZERO);
        let lock = fixture.settings.file.with_extension("lock");
        let source = fixture.source();
        let token = source.token();
        sleep(Duration::from_millis(50)).await;
        fs::remove_file(&lock).unwrap();
        if new_owner {
            fs::write(&lock, "theirs").unwrap();
        }
        assert_eq!(bearer(token.await), "Bearer access-1");
        assert!(fixture.content().contains("refresh-1"));
        assert_eq!(lock.exists(), new_owner);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_planted_in_the_files_place_is_neither_followed_nor_replaced() {
    for kind in ["symlink", "directory", "pipe"] {
        let fixture = Fixture::new().with_token("one", MINUTE);
        let (path, aside) = (
            &fixture.settings.file,
            fixture.directory.path().join("aside"),
        );
        let source = fixture.source();
        fs::rename(path, &aside).unwrap();
        match kind {
            "symlink" => symlink(&aside, path).unwrap(),
            "directory" => fs::create_dir(path).unwrap(),
            _ => assert!(Command::new("mkfifo").arg(path).status().unwrap().success()),
        }
        sleep(2 * MINUTE).await;
        assert_eq!(bearer(source.token().await), "Bearer access-1", "{kind}");
        assert!(!fs::symlink_metadata(path).unwrap().is_file(), "{kind}");
        let planted = fs::read_to_string(&aside).unwrap();
        assert!(planted.contains("canary-one"), "{kind}");
    }
}
